"""Messages are sentences of a length that people read, without the names and numbers in them."""

import ast
from pathlib import Path

SOURCES = sorted((Path(__file__).resolve().parents[1] / "survq").rglob("*.py"))
LONGEST = 190  # characters


def text(node: ast.AST) -> str:
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def test_no_message_is_longer_than_it_must_be():
    """What is raised, and the problems that are collected first: all that holds a cure."""
    messages = [
        (file.name, node.lineno, text(node))
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Constant)
        if isinstance(node, ast.Raise) or "Fix: " in text(node)
    ]
    assert len(messages) > 500, "no messages were found: the test is broken"
    assert [message for message in messages if len(message[2]) > LONGEST] == []
