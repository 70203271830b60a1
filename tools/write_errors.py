"""Write `docs/errors.md`, with every error line, from the places in the source that make errors.

.venv/bin/python tools/write_errors.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from permafrost import errors
from permafrost.errors import PermafrostError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
SOURCE = ROOT / "src" / "permafrost"

HEADER = """# Errors, and what to do

If a request or its input is wrong, a command exits with status 2 and prints one line on standard error: what is wrong
and where, what was expected, what was found, and what to do. Nothing is half-written. Status 1 is a bug in Permafrost:
run the command again with `--debug` and report the traceback. Ctrl-C exits with 130; committed features stay, and the
same command continues.

In Python each error is a subclass of `permafrost.errors.PermafrostError` with the attributes `what`, `expected`,
`found` and `do`:

```python
import permafrost as pf
from permafrost.errors import PermafrostError

try:
    features = pf.extract("photos", base="vgg16")
except PermafrostError as error:
    print(error.what, error.do)
```

To find a line, search this page for a part of it without names and numbers: in `{braces}` is what differs from case to
case. What follows a colon may be the line of a library, or of another row. `tools/write_errors.py` writes this page
from the source.
"""

WORDS = {
    "_shown": "--layout LEVELS",
    "argmax": "number",
    "count": "number",
    "error": "reason",
    "len": "number",
    "nearest": "similar names",
    "replace": "option",
    "round": "number",
    "splitext": "ending",
    "str": "reason",
    "sum": "number",
    "what_was_found": "reasons",
}
"""What a placeholder is called, by the name in the source."""

SHOWN_AS_ARGUMENT = (
    *("fromkeys", "getattr", "int", "join", "list", "listed", "listed_fields", "map", "max", "min", "next", "one_line"),
    *("repr", "set", "sorted", "str", "tuple"),
)
"""Functions whose result is called as their last argument is."""

ALTERNATIVES = 6
"""The maximum number of lines that one place in the source stands for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """An error's line.

    Attributes:
        kind: the name of its class.
        what, expected, found, do: its parts; None for those that it lacks.
    """

    kind: str
    what: str
    expected: str | None
    found: str | None
    do: str | None

    @property
    def order(self) -> str:
        """The text by which lines are sorted and told apart: without what differs from case to case."""
        return re.sub(r"[^a-z0-9]+", " ", fixed(self.what).lower()).strip()


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where an expression stands: its file and its constants, its function, and the texts of that one's parameters."""

    path: Path
    constants: dict[str, ast.expr]
    function: ast.FunctionDef | None = None
    bound: dict[str, list[str]] = dataclasses.field(default_factory=dict)


class Source:
    """The source of the package: its files, their constants, and the calls of each function by its name."""

    def __init__(self) -> None:
        self.trees = {path: ast.parse(path.read_bytes()) for path in sorted(SOURCE.rglob("*.py"))}
        every = {name: value for tree in self.trees.values() for name, value in constants_of(tree).items()}
        self.constants = {path: every | constants_of(tree) for path, tree in self.trees.items()}
        self.calls: dict[str, list[tuple[ast.Call, Scope]]] = {}
        for call, scope in self._calls():
            if isinstance(call.func, ast.Name):
                self.calls.setdefault(call.func.id, []).append((call, scope))

    def _calls(self) -> Iterator[tuple[ast.Call, Scope]]:
        for path, tree in self.trees.items():
            yield from calls_below(tree, Scope(path, self.constants[path]))

    def lines(self) -> list[Line]:
        """Return the lines of all errors that the source makes; equal ones once."""
        found: dict[tuple[str, str], Line] = {}
        for kind in CLASSES:
            for call, scope in self.calls.get(kind, []):
                for each in self._scopes(scope):
                    for line in lines_of(kind, call, each):
                        found.setdefault((kind, line.order), line)
        return [line for line in found.values() if len(line.order) > 3]

    def _scopes(self, scope: Scope) -> Iterator[Scope]:
        """Yield the scope once per call of its function that gives the text of a parameter."""
        function, seen = scope.function, False
        for call, caller in self.calls.get(function.name, []) if function else []:
            assert function is not None
            if function.name.startswith("_") and caller.path != scope.path:
                continue
            names = [argument.arg for argument in function.args.args]
            given = dict(zip(names, call.args, strict=False)) | {each.arg: each.value for each in call.keywords}
            bound = {name: texts(value, caller) for name, value in given.items() if name}
            bound = {name: found for name, found in bound.items() if all(fixed(text).strip(" :") for text in found)}
            if bound:
                seen = True
                yield dataclasses.replace(scope, bound=bound)
        if not seen:
            yield scope


def constants_of(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the constants of a file: their expressions by name."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def calls_below(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.Call, Scope]]:
    """Yield the calls below a node, each with its scope."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, scope
        inner = dataclasses.replace(scope, function=child) if isinstance(child, ast.FunctionDef) else scope
        yield from calls_below(child, inner)


def lines_of(kind: str, call: ast.Call, scope: Scope) -> Iterator[Line]:
    """Yield the lines that a call of an error's class can make."""
    if not call.args:
        return
    parts = {each.arg: texts(each.value, scope) for each in call.keywords if each.arg}
    others = {name: " / ".join(list(dict.fromkeys(filter(None, found)))[:2]) or None for name, found in parts.items()}
    for what in texts(call.args[0], scope):
        yield Line(
            kind=kind, what=what, expected=others.get("expected"), found=others.get("found"), do=others.get("do")
        )


def texts(node: ast.expr, scope: Scope) -> list[str]:
    """Return the texts that an expression can have, with `{placeholders}` for what is known only when it runs."""
    if isinstance(node, ast.Constant):
        return ["" if node.value is None else str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return joined([texts(part, scope) for part in node.values])
    if isinstance(node, ast.FormattedValue):
        found = texts(node.value, scope)
        # A variable with several texts may stand twice in one line.
        return found if len(found) == 1 or isinstance(node.value, ast.IfExp) else [placeholder(node)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return joined([texts(node.left, scope), texts(node.right, scope)])
    if isinstance(node, ast.IfExp):
        return list(dict.fromkeys([*texts(node.body, scope), *texts(node.orelse, scope)]))[:ALTERNATIVES]
    if isinstance(node, ast.Name):
        return scope.bound.get(node.id) or assigned(node.id, scope) or [placeholder(node)]
    return [placeholder(node)]


def joined(parts: list[list[str]]) -> list[str]:
    """Return all ways to join one text of each part."""
    return ["".join(each) for each in itertools.islice(itertools.product(*parts), ALTERNATIVES)]


def assigned(name: str, scope: Scope) -> list[str]:
    """Return the texts that a local variable or a constant can have; none if it is not text."""
    values = [scope.constants[name]] if name in scope.constants and name.isupper() else []
    for node in ast.walk(scope.function) if scope.function else ():
        if isinstance(node, ast.Assign):
            for target in node.targets:
                values += [node.value] if isinstance(target, ast.Name) and target.id == name else []
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                    values += [value for each, value in pairs if isinstance(each, ast.Name) and each.id == name]
    plain = [value for value in values if isinstance(value, ast.Constant | ast.JoinedStr | ast.IfExp)]
    outer = dataclasses.replace(scope, function=None)
    found = [text for value in plain for text in texts(value, outer)]
    return found[:ALTERNATIVES] if len(plain) == len(values) and all(map(fixed, found)) else []


def placeholder(node: ast.AST) -> str:
    """Return a word in braces for the value of an expression."""
    return "{" + word(node) + "}"


def word(node: ast.AST) -> str:
    """Return a word for the value of an expression."""
    if isinstance(node, ast.Name):
        return WORDS.get(node.id, node.id.strip("_").replace("_", " ").lower())
    if isinstance(node, ast.Attribute):
        if word(node.value) == "reason":
            return "reason"
        return {"__name__": "type", "what": "reason"}.get(node.attr, node.attr.strip("_").replace("_", " "))
    if isinstance(node, ast.Call):
        return word_of_call(node)
    if isinstance(node, ast.Subscript | ast.Starred | ast.FormattedValue | ast.Await):
        return word(node.value)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return word(node.generators[0].iter)
    if isinstance(node, ast.JoinedStr):
        return next((word(part) for part in node.values if isinstance(part, ast.FormattedValue)), "value")
    if isinstance(node, ast.Tuple | ast.List):
        return "choices"
    if isinstance(node, ast.BoolOp):
        return word(node.values[0])
    if isinstance(node, ast.IfExp):
        return word(node.body)
    return "number" if isinstance(node, ast.BinOp | ast.UnaryOp) else "value"


def word_of_call(node: ast.Call) -> str:
    """Return a word for the result of a call."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in WORDS and not (name == "str" and node.args):
        return WORDS[name]
    if node.args and name in SHOWN_AS_ARGUMENT:
        return word(node.args[-1])
    if isinstance(node.func, ast.Attribute) and not node.args:
        return word(node.func.value)  # Such as `name.upper()`.
    return name.strip("_").replace("_", " ") or "value"


def fixed(text: str) -> str:
    """Return a line without its placeholders."""
    return re.sub(r"\{[^{}]*\}", "", text)


CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, PermafrostError) and kind is not PermafrostError
}


def page() -> str:
    """Return the text of the page."""
    lines = Source().lines()
    lines.sort(key=lambda line: line.order)
    of_kind = {name: [line for line in lines if line.kind == name] for name in CLASSES}
    names = sorted(CLASSES, key=lambda name: -len(of_kind[name]))
    parts = [HEADER, overview(names)]
    return "\n".join(parts + [section(name, of_kind[name]) for name in names if of_kind[name]])


def overview(names: list[str]) -> str:
    """Return the table of the classes, from their docstrings."""
    rows = ["| exception | meaning | what usually helps |", "| --- | --- | --- |"]
    for name in names:
        meaning, _, helps = (inspect.getdoc(CLASSES[name]) or "").partition("\n\n")
        rows.append(f"| `{name}` | {cell(meaning.rstrip('.'))} | {cell(helps.rstrip('.'))} |")
    return "\n".join(rows) + "\n"


def section(name: str, lines: list[Line]) -> str:
    """Return the section of a class: a table of its lines."""
    rows = [f"## {name}\n", "| line | expected | what to do |", "| --- | --- | --- |"]
    for line in lines:
        what = line.what + (f"; found {line.found}" if line.found and fixed(line.found).strip(" ,.") else "")
        rows.append(f"| {cell(what)} | {cell(line.expected or '')} | {cell(line.do or '')} |")
    return "\n".join(rows) + "\n"


def cell(text: str) -> str:
    """Return a text for a cell of a table: one line in which Markdown finds no marks but the placeholders."""
    text = " ".join(text.split())
    text = re.sub(r"([\\|*_<>\[\]])", r"\\\1", text)
    return re.sub(r"\{([^{}]*)\}", lambda found: "`{" + found[1].replace("\\", "") + "}`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
