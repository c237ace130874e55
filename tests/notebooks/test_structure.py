"""Notebooks 01 to 07 as they are committed: stripped, short cells, one story each."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lprnet_nb.language import LEFT_OUT, english_source
from lprnet_nb.lessons import course
from lprnet_nb.lessons.exercises import EXERCISES
from lprnet_nb.measure import parameters
from lprnet_nb.report import run
from lprnet_nb.report.profiles import PROFILES
from lprnet_nb.report.run import notebook_path
from lprnet_nb.report.status import _parameters
from lprnet_nb.steps import write_notebooks

NOTEBOOKS = (*run.NOTEBOOKS, "06_strategies", "07_train")
OWN_PARAMETERS = {"LAYER", "SEED", "PLATES", "REAL_IMAGES", "TRAIN_STEPS", "TRAIN_FOLDER"}

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
        listing = "parameters" in cell.metadata.get("tags", [])
        assert listing or len(story) <= 15
        assert max(map(len, lines)) <= 100
        functions = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.FunctionDef)]
        exercise = "exercise" in cell.metadata.get("tags", [])
        assert len(functions) == exercise, "the learner writes a function, the package has the rest"
        last = ast.parse(cell.source).body[-1]
        assert not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Name)), (
            "shown by name"
        )


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
    [tries] = [text for text in PROSE[name] if re.match(r"## \d+ Three things to try", text)]
    assert [line[:2] for line in tries.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]
    assert re.search("[一-鿿]", "".join(PROSE[name])), "the vendor's terms stand beside ours"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_question_an_answer_and_an_exercise(name: str) -> None:
    [question] = [text for text in PROSE[name] if "> **Before you look.**" in text]
    assert question.rstrip().endswith("?")
    kinds = [
        "question"
        if cell.source == question
        else "answer"
        if "course.answer(" in cell.source
        else ""
        for cell in nbformat.read(notebook_path(name), 4).cells
    ]
    assert [kind for kind in kinds if kind] == ["question", "answer"]
    [exercise] = [cell for cell in CODE[name] if "exercise" in cell.metadata.get("tags", [])]
    [function] = [n for n in ast.parse(exercise.source).body if isinstance(n, ast.FunctionDef)]
    assert f'exercises.check("{function.name}", {function.name})' in exercise.source
    assert function.name in EXERCISES and "..." in exercise.source.splitlines()[2]


def test_every_exercise_is_asked_once() -> None:
    asked = re.findall(
        r"exercises\.check\(\"(\w+)\"", str([c.source for cs in CODE.values() for c in cs])
    )
    assert sorted(asked) == sorted(EXERCISES)


def test_links_lead_from_the_map_through_every_notebook() -> None:
    way = ("00_start", *NOTEBOOKS)
    for before, name in itertools.pairwise(way):
        cells = [c.source for c in nbformat.read(notebook_path(before), 4).cells]
        assert f"]({name}.ipynb)" in cells[-1]
        opening = nbformat.read(notebook_path(name), 4).cells[0].source
        assert f"]({before}.ipynb)" in opening and "](00_start.ipynb)" in opening
    the_map = "".join(c.source for c in nbformat.read(notebook_path("00_start"), 4).cells)
    assert all(f"]({name}.ipynb)" in the_map for name in NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_helpers_stand_in_the_file_of_the_notebook(name: str) -> None:
    source = "\n".join(cell.source for cell in CODE[name])
    [lesson] = re.findall(r"^from lprnet_nb\.lessons import (\w+) as lesson$", source, re.M)
    assert lesson == name[3:]
    module = importlib.import_module(f"lprnet_nb.lessons.{lesson}")
    used = set(re.findall(r"\blesson\.(\w+)", source + "".join(PROSE[name])))
    assert all(hasattr(module, one) for one in used)


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
    if name == "07_train":  # its parameters are its own
        assert "course.refuse_undeclared()" in second.source
        assert set(values) <= OWN_PARAMETERS | {"LANGUAGE", "OUTPUT_DIR"}
        return
    assert f'course.checked("{name}", ' in second.source
    assert set(values) - OWN_PARAMETERS <= set(parameters.NAMES)  # those that are handed on
    parameters.check(**{key: v for key, v in values.items() if key not in OWN_PARAMETERS})


@pytest.mark.parametrize("name", [*run.NOTEBOOKS, "06_strategies"])
def test_defaults_fit_any_network(name: str) -> None:
    """Strategies of LPRNet alone are refused by `checked`, its grammar by the decoder."""
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(CODE[name][0].source).body
    }
    found = course.checked(name, values | {"NETWORK": "a.py"})
    assert set(found.decoders) <= {"greedy", "beam"}
    usual = course.checked(name, values)
    if name == "03_quantize":
        assert [asked.name for asked in usual.strategies] == ["kl", "mse", "kl-forked"]
        assert _parameters(name, {}).strategies == usual.strategies
        [asked] = course.checked(name, values, STRATEGIES="mse").strategies
        assert asked.name == "mse"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_compiles_takes_the_toolchain(name: str) -> None:
    compiles = any(
        word in cell.source for cell in CODE[name] for word in ("compile_all(", "live_study(")
    )
    for parameter in ("TOOLCHAIN", "TPU_MLIR", "CALIBRATION"):
        assert compiles == (f"\n{parameter} = " in CODE[name][0].source), parameter


def test_the_report_passes_what_notebooks_take() -> None:
    declared = {
        key for cells in CODE.values() for key in re.findall(r"^([A-Z_]+) =", cells[0].source, re.M)
    }
    assert {key for profile in PROFILES.values() for key in profile} <= declared


def test_no_image_or_path_of_this_machine() -> None:
    for name in NOTEBOOKS:
        text = Path(notebook_path(name)).read_text("utf8")
        assert "data:image" not in text and not re.search(r"/(root|home|tmp|work)/", text)


OF_LPRNET = re.compile(
    r"LPRNet|GA 36|the grammar|vendor's|published (weights|figures|set)|global\scontext|18 steps"
    r"|1,000 test|strided pool|LAYER = "
)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_notebooks_are_written_for_a_network_of_ones_own(language: str, tmp_path: Path) -> None:
    """Each that takes one, set to it, in either language without what is said of LPRNet alone."""
    network = tmp_path / "mine.py"
    network.touch()
    written = write_notebooks(tmp_path / "mine", language, str(network))
    assert [path.stem for path in written] == [*run.NOTEBOOKS, "06_strategies"]
    for path in written:
        told = nbformat.read(path, 4)
        first = next(cell.source for cell in told.cells if cell.cell_type == "code")
        values = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(first).body}
        assert (values["NETWORK"], values["LANGUAGE"]) == (str(network), language)
        english = [english_source(cell) for cell in told.cells if cell.cell_type == "markdown"]
        assert not any("of-lprnet" in text for text in english)
        kept = [cell.source for cell in told.cells if cell.cell_type == "code"][1:]
        assert kept == [cell.source for cell in CODE[path.stem]][1:]


@pytest.mark.parametrize("name", run.NOTEBOOKS)
def test_prose_for_another_network_says_nothing_of_lprnets(name: str, tmp_path: Path) -> None:
    """Headings aside; the columns of the vendor's table are a form, not a figure."""
    path = run._without_lprnet(notebook_path(name), tmp_path / "told.ipynb")
    told = nbformat.read(path, 4)
    prose = [cell.source for cell in told.cells if cell.cell_type == "markdown"]
    assert "span" not in "".join(prose) and "" not in map(str.strip, prose)
    assert len(set(prose) - set(PROSE[name])) >= 2
    form = re.compile(f"the vendor's (columns|terms)|{re.escape(LEFT_OUT)}")
    told = [re.sub(r"^(#.*|\d+\. \[.*)$", "", form.sub("", text), flags=re.M) for text in prose]
    found = [word[0] for text in told for word in OF_LPRNET.finditer(text)]
    assert not found
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert code == [cell.source for cell in CODE[name]]
