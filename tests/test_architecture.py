"""docs/architecture.md: its picture is the import contract's, its walks are over real functions."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from architecture import BLOCK, PACKAGE, PAGE, ROOT, about, drawn, layers

# 1. `file` `function`: text; or with "(called by `file`)" behind the function.
STEP = re.compile(r"^\d+\. `([\w/]+\.py)` `([\w.]+)`(?: \(called by `([\w./]+)`\))?: ", re.M)
TEXT = PAGE.read_text("utf8")
WALKS = dict(re.findall(r"^### (.+)\n((?:.*\n)*?)(?=^#|\Z)", TEXT.partition("## Walks")[2], re.M))


def test_the_picture_is_drawn_from_the_contract():
    assert BLOCK.search(TEXT)[0] == drawn(), "run: python tests/architecture.py"


def test_every_room_is_in_the_picture_and_says_what_it_is():
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    rooms = [room for line in layers() for room in line]
    assert sorted(rooms) == sorted(there - {"__init__"})
    assert all(about(room).endswith(".") for room in rooms)


@cache
def _functions(file: str) -> dict[str, set[str]]:
    """Names of a file's functions and methods, and what the body of each names."""
    found: dict[str, set[str]] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                walk(child, f"{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                found[prefix + child.name] = {
                    inner.id if isinstance(inner, ast.Name) else inner.attr
                    for inner in ast.walk(child)
                    if isinstance(inner, ast.Name | ast.Attribute)
                }

    walk(ast.parse((PACKAGE / file).read_text("utf8")), "")
    return found


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_is_a_straight_line_over_functions_that_are_there(walk):
    steps = STEP.findall(WALKS[walk])
    assert len(steps) == len(re.findall(r"^\d+\.", WALKS[walk], re.M)) >= 5
    named: set[str] = set()
    for file, function, caller in steps:
        assert function in _functions(file), f"{file} has no {function}"
        name = function.rpartition(".")[2]
        if caller.endswith(".py"):
            named |= set().union(*_functions(caller).values())
        elif caller:
            named |= set(re.findall(r"\w+", (ROOT / caller).read_text("utf8")))
        assert name in named, f"{function} is called by nothing that the walk has passed"
        named |= _functions(file)[function]


def test_the_walks_are_those_that_were_asked_for():
    assert [walk.split(":")[0] for walk in WALKS] == [
        "One image",
        "One weight",
        "One strategy",
        "One figure's value",
    ]
