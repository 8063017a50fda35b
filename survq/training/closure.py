"""The definitions that a piece of code can reach, found in its source: nothing is imported or executed.

A definition is a class, function or constant at the top level of a module. It reaches every definition that it names.
Imports are followed, also through packages that re-export a name. The methods of
an object are those of the class in its annotation or constructor call.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

Read = Callable[[str], str | None]
"""The source of a module by its dotted name; None for modules that are not followed."""

Definition = tuple[str, str]
"""Module and name. An empty name means the whole module."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


@dataclass(frozen=True)
class Module:
    """The statements at the top level of a module, without documentation."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, Definition]  # by local name
    others: list[ast.stmt]  # neither definition nor import: executed on import


def code_hashes(roots: Iterable[Definition], read: Read, stops: Collection[str]) -> dict[str, str]:
    """A short hash per module of the definitions that `roots` reach and of the statements executed on its import.

    Modules in `stops` are not followed. Comments, documentation and layout do not change a hash.
    """
    reached: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}  # by module: the targets of the imported names in use
    waiting = list(roots)
    while waiting:
        module, name = waiting.pop()
        content = parsed(module, read)
        if content is None or module in stops or name in reached.get(module, ()):
            continue
        statements = [] if module in reached else list(content.others)
        reached.setdefault(module, set()).add(name)
        waiting += [] if name else [(module, every) for every in content.definitions]
        for statement in (*statements, *content.definitions.get(name, ())):
            for used, target in _references(module, content, statement, read):
                waiting.append(target)
                if used not in content.definitions:
                    names.setdefault(module, set()).add(f"{used} = {':'.join(target)}")
    return {module: _hash(module, reached[module], names.get(module, ()), read) for module in sorted(reached)}


def parsed(module: str, read: Read) -> Module | None:
    """A module's statements; None for a module that is not followed."""
    source = read(module)
    return None if source is None else _parse(source, module)


def normalized(tree: ast.Module) -> ast.Module:
    """The tree without documentation, that is without constants as statements."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
    return tree


@cache
def _parse(source: str, module: str) -> Module:
    content = Module({}, {}, [])
    for statement in normalized(ast.parse(source)).body:
        content.imports.update(_imported(statement, module))
        if isinstance(statement, DEFINITIONS):
            content.definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ASSIGNMENTS) and (owners := _assigned(statement)):
            for name in owners:
                content.definitions.setdefault(name, []).append(statement)
        elif not _only_imports(statement):
            content.others.append(statement)
    return content


def _imported(tree: ast.AST, module: str) -> Iterator[tuple[str, Definition]]:
    """The names that imports anywhere in a piece of code bind, and their targets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname, (alias.name, "")) if alias.asname else (_first(alias.name), (_first(alias.name), ""))
                )
        elif isinstance(node, ast.ImportFrom):
            if node.level or any(alias.name == "*" for alias in node.names):
                raise ValueError(f"{module}: {ast.unparse(node)!r} is relative or a star. Fix: name module and names.")
            for alias in node.names:
                yield alias.asname or alias.name, (str(node.module), alias.name)


def _assigned(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[str]:
    """The names that an assignment defines or changes; none if it changes an imported or an unnamed object."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = []
    for target in targets:
        for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            while isinstance(part, ast.Subscript):
                part = part.value
            if not isinstance(part, ast.Name):
                return []
            names.append(part.id)
    return names


def _only_imports(statement: ast.stmt) -> bool:
    """Whether it is an import, or a condition around imports such as `if TYPE_CHECKING:`."""
    parts = [node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement]
    imports = all(isinstance(part, ast.Import | ast.ImportFrom) for part in parts or [statement])
    return imports and isinstance(statement, ast.Import | ast.ImportFrom | ast.If)


def _references(module: str, content: Module, statement: ast.stmt, read: Read) -> Iterator[tuple[str, Definition]]:
    """The references in a statement: the name as written, and the definition."""
    dotted_names, inside = _mentioned(statement, module)
    imports = content.imports | inside
    for name, *attributes in dotted_names:
        if name in content.definitions:
            yield name, (module, name)
        elif name in imports:
            start, attribute = imports[name]
            yield name, _resolve(start, [*filter(None, [attribute]), *attributes], read)


@cache  # models share most of their code
def _mentioned(statement: ast.stmt, module: str) -> tuple[list[list[str]], dict[str, Definition]]:
    """The dotted names in a statement, and its imports: those inside functions."""
    return list(_dotted_names(statement)), dict(_imported(statement, module))


def _dotted_names(node: ast.AST) -> Iterator[list[str]]:
    """The longest dotted names in a piece of code. Strings are included, because annotations may be strings."""
    attributes: list[str] = []
    start = node
    while isinstance(start, ast.Attribute):
        attributes.insert(0, start.attr)
        start = start.value
    if isinstance(start, ast.Name):
        yield [start.id, *attributes]
    elif isinstance(start, ast.Constant) and isinstance(start.value, str):
        yield start.value.split(".")
    else:
        for child in ast.iter_child_nodes(start):
            yield from _dotted_names(child)


def _resolve(module: str, names: Sequence[str], read: Read) -> Definition:
    """The definition that the attributes `names` of a module lead to, one after the other."""
    passed = set()
    while names and (content := parsed(module, read)) is not None:
        first, rest = names[0], names[1:]
        if first in content.definitions or (module, first) in passed:
            break
        passed.add((module, first))
        if first in content.imports:
            module, attribute = content.imports[first]
            names = [*filter(None, [attribute]), *rest]
        elif read(f"{module}.{first}") is not None:
            module, names = f"{module}.{first}", rest
        else:
            break
    return module, names[0] if names else ""


def _hash(module: str, reached: Collection[str], names: Collection[str], read: Read) -> str:
    content = parsed(module, read)
    assert content is not None
    definitions = [s for name in sorted(reached) for s in content.definitions.get(name, ())]
    # ast.unparse and not ast.dump, which differs between versions of Python
    lines = [ast.unparse(statement) for statement in (*content.others, *definitions)]
    return hashlib.sha256("\n".join([*lines, *sorted(names)]).encode()).hexdigest()[:12]


def _first(name: str) -> str:
    return name.split(".")[0]
