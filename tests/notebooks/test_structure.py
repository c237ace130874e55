"""Notebooks 01 to 06 as they are committed: stripped, short cells, one story each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lprnet_nb.measure import parameters
from lprnet_nb.report import run
from lprnet_nb.report.run import PROFILES, notebook_path

NOTEBOOKS = (*run.NOTEBOOKS, "06_strategies")

CODE = {
    name: [cell for cell in nbformat.read(notebook_path(name), 4).cells if cell.cell_type == "code"]
    for name in NOTEBOOKS
}
PROSE = {
    name: [
        cell.source
        for cell in nbformat.read(notebook_path(name), 4).cells
        if cell.cell_type == "markdown"
    ]
    for name in NOTEBOOKS
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stripped_and_short(name: str) -> None:
    nbformat.validate(nbformat.read(notebook_path(name), 4))
    for cell in CODE[name]:
        assert not cell.outputs and cell.execution_count is None
        lines = cell.source.splitlines()
        # Imports say where things come from; what is left is the story.
        story = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(story) <= 15 and max(map(len, lines)) <= 100
        functions = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.FunctionDef)]
        assert not functions, "logic belongs to the package"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_story(name: str) -> None:
    opening = PROSE[name][0]
    for part in ("What you will learn", "What this is not", "How long it takes", "Contents"):
        assert f"**{part}" in opening
    headings = [
        line[3:] for text in PROSE[name] for line in text.splitlines() if line.startswith("## ")
    ]
    links = re.findall(r"\]\(#([^)]*)\)", opening)
    assert links == [heading.replace(" ", "-") for heading in headings]
    assert headings[-1].endswith("Three things to try")
    tries = PROSE[name][-1]
    assert [line[:2] for line in tries.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]
    assert re.search("[一-鿿]", "".join(PROSE[name])), "the vendor's terms stand beside ours"


def test_no_cell_is_copied() -> None:
    statements: dict[str, str] = {}
    for name, cells in CODE.items():
        for cell in cells[2:]:  # parameters and imports are alike by nature
            assert cell.source not in statements, f"{name} repeats a cell of {statements}"
            statements[cell.source] = name


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_are_plain_and_checked_next(name: str) -> None:
    first, second = CODE[name][:2]
    assert first.metadata["tags"] == ["parameters"]
    values = {
        node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(first.source).body
    }
    assert values["OUTPUT_DIR"] == ""
    assert set(papermill.inspect_notebook(str(notebook_path(name)))) == set(values)
    passed = set(re.findall(r"(\w+)=\1\b", second.source)) | (
        {"CHIPS"} if "CHIPS=chip" in second.source else set()
    )
    assert passed - {"LAYER"} == set(values) - {"LAYER"}
    parameters.check(**{key: value for key, value in values.items() if key != "LAYER"})


def test_the_report_passes_what_notebooks_take() -> None:
    declared = {
        key for cells in CODE.values() for key in re.findall(r"^([A-Z_]+) =", cells[0].source, re.M)
    }
    assert {key for profile in PROFILES.values() for key in profile} <= declared


def test_no_image_or_path_of_this_machine() -> None:
    for name in NOTEBOOKS:
        text = Path(notebook_path(name)).read_text("utf8")
        assert "data:image" not in text and not re.search(r"/(root|home|tmp|work)/", text)
