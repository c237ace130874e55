"""Messages of the notebooks and the package, and the catalog of their Chinese.

``python tests/language.py`` puts messages that are new into the catalog, without a translation, and
takes out those that are gone; tests/test_language.py names what is left to translate.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jinja2
from babel.messages import Catalog
from babel.messages.pofile import read_po, write_po
from jinja2 import nodes

from lprnet_nb.evaluate.published import published_accuracy
from lprnet_nb.language import CATALOG, heading, markdown_messages, paragraphs
from lprnet_nb.toolchain.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lprnet_nb"
PO = PACKAGE / CATALOG
HEADER = """\
# English (msgid) and Chinese (msgstr) of the notebooks and the report.
# New messages: python tests/language.py
# Terms: lprnet_nb/locale/glossary.csv"""
# Functions of messages, and which arguments these are.
FUNCTIONS = {"phrase": slice(1), "counted": slice(1, 3)}
# Methods that show plain texts too, and the first argument that is one.
SHOWN = {"figure": 2, "table": 2, "see": 0, "tell": 0, "answer": 0}
TABLES = (PACKAGE / "study" / "results.py", PACKAGE / "study" / "upgrades.py")


@cache
def messages() -> dict[str, str]:
    """Every message that is to be translated, with the file in which it stands first."""
    found: dict[str, str] = {}
    for path, message in _all():
        found.setdefault(message, path.relative_to(ROOT).as_posix())
    return found


def _all() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf8"))["cells"]:
            source = "".join(cell["source"])
            one = markdown_messages if cell["cell_type"] == "markdown" else shown
            for message in one(source):
                yield path, message
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "language.py":
            source = path.read_text("utf8")
            tables = headings(source) if path in TABLES or path.parent.name == "lessons" else []
            helps = commands(source) if path.name == "cli.py" else []
            for message in (*said(source), *tables, *helps):
                yield path, message
    for path in sorted(PACKAGE.rglob("*.j2")):
        tree = jinja2.Environment().parse(path.read_text("utf8"))
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in FUNCTIONS:
                for message in _constants(call.args[0]):
                    yield path, message
    registry = PACKAGE / "toolchain" / "strategies.py"
    for strategy in STRATEGIES.values():
        yield registry, strategy.about
    for row in published_accuracy():
        if " " in row.note:
            yield PACKAGE / "evaluate" / "published" / "accuracy.csv", row.note


def said(source: str) -> list[str]:
    """Messages that Python code hands to `phrase` and `counted`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = _name(node.func) if isinstance(node, ast.Call) else None
        for argument in node.args[FUNCTIONS[name]] if name in FUNCTIONS else ():
            found += _literals(argument)
    return found


def shown(source: str) -> list[str]:
    """Messages of a notebook's code: phrases, and plain texts that are handed to be shown."""
    found = said(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "table":
                found += _keys(ast.parse(source))
            given = node.args[SHOWN.get(node.func.attr, len(node.args)) :]
            found += [
                one.value
                for one in given
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
    return found


def commands(source: str) -> list[str]:
    """Help of the command line: docstrings of commands, and texts of their options."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "help":
            found += paragraphs(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef) and any(
            isinstance(one, ast.Call) and _name(one.func) in ("command", "callback")
            for one in node.decorator_list
        ):
            found += paragraphs(ast.get_docstring(node) or "")
    return [message for message in found if message]


def headings(source: str) -> list[str]:
    """Columns of the tables that functions make: keys of what gives ``list[dict[str, Any]]``, and
    of the functions that make one row.
    """
    return [
        key
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        and function.returns is not None
        and (
            ast.unparse(function.returns) == "list[dict[str, Any]]"
            or function.name.endswith("_row")
        )
        for key in _keys(function)
    ]


def _keys(tree: ast.AST) -> list[str]:
    return [
        str(heading(key.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and re.search("[a-z]", str(key.value))
    ]


def _name(function: ast.expr) -> str:
    return getattr(function, "id", "") or getattr(function, "attr", "")


def _literals(node: ast.expr) -> list[str]:
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    text = ast.literal_eval(node)  # raises for what is put together when the code runs
    assert isinstance(text, str), text
    return [text]


def _constants(node: nodes.Expr) -> list[str]:
    if isinstance(node, nodes.CondExpr):
        assert node.expr2 is not None
        return _constants(node.expr1) + _constants(node.expr2)
    assert isinstance(node, nodes.Const), f"line {node.lineno}: phrase() takes a literal first"
    return [node.value]


def read() -> Catalog:
    """The catalog as it is."""
    with PO.open("rb") as source:
        return read_po(source)


def updated(wanted: dict[str, str], before: Catalog) -> str:
    """The catalog with these messages and no others; what was translated stays."""
    catalog = Catalog(locale="zh_CN", header_comment=HEADER, charset="utf-8")
    for message, place in wanted.items():
        known = before.get(message)
        catalog.add(message, known.string if known else "", locations=[(place, None)])
    text = io.BytesIO()
    write_po(text, catalog, width=0, omit_header=True)
    head = f'{HEADER}\nmsgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n' + (
        '"Content-Type: text/plain; charset=utf-8\\n"\n'
    )
    return head + "\n" + text.getvalue().decode().strip() + "\n"


if __name__ == "__main__":
    wanted = messages()
    before = read() if PO.exists() else Catalog(locale="zh_CN")
    PO.write_text(updated(wanted, before), "utf8")
    print(f"{len(wanted)} messages, {sum(not one.string for one in read() if one.id)} to translate")
