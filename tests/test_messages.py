"""Messages are sentences of a length that people read, without the names and numbers in them."""

import ast
from pathlib import Path

SOURCES = sorted((Path(__file__).resolve().parents[1] / "survq").rglob("*.py"))
LONGEST = 200  # characters


def test_no_message_is_longer_than_it_must_be():
    raised = [
        (file.name, node.lineno, "".join(text))
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Raise) and node.exc is not None
        for text in [[p.value for p in ast.walk(node.exc) if isinstance(p, ast.Constant) and isinstance(p.value, str)]]
    ]
    assert len(raised) > 200, "no messages were found: the test is broken"
    assert [message for message in raised if len(message[2]) > LONGEST] == []
