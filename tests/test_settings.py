"""Settings: every variable of ours is read in one place, and none is named that does not exist."""

import ast
import re
from dataclasses import asdict, fields

import pytest

from lprnet_nb.places import repository
from lprnet_nb.settings import PLACES, Settings, settings, variable

PACKAGE = repository() / "lprnet_nb"
NAMES = {variable(field.name) for field in fields(Settings)}
OF_SCRIPTS = {"LPRNET_VENV", "LPRNET_PYTHON"}  # read by scripts/setup.sh, before there is a Python


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_a_setting_is_what_its_variable_says_now(field, monkeypatch):
    assert settings() == Settings()
    monkeypatch.setenv("LPRNET_" + field.upper(), f"the {field}")
    assert asdict(settings()) == asdict(Settings()) | {field: f"the {field}"}
    monkeypatch.setenv("LPRNET_" + field.upper(), "")
    assert settings() == Settings()


def test_places_are_settings():
    assert set(PLACES) < set(asdict(Settings()))


def reads(tree: ast.AST):
    """What is looked up in the environment: the key of each reading access."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="get" | "pop", value=place), args=[key, *_]):
                pass
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[key, *_]):
                yield key
                continue
            case ast.Subscript(value=place, slice=key, ctx=ast.Load()):
                pass
            case ast.Compare(left=key, ops=[ast.In() | ast.NotIn()], comparators=[place]):
                pass
            case _:
                continue
        if ast.unparse(place).endswith("environ"):
            yield key


def test_nobody_else_reads_a_variable_of_ours():
    found = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name in ("settings.py", "children.py"):  # children hand the environment on as a whole
            continue
        for key in reads(ast.parse(path.read_text("utf8"))):
            if not isinstance(key, ast.Constant) or str(key.value).startswith("LPRNET_"):
                found.append(f"{name}: {ast.unparse(key)}")
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        'os.environ.get("A")',
        'os.environ["A"]',
        '"A" in os.environ',
        '"A" not in os.environ',
        'os.getenv("A")',
        'os.environ.pop("A", None)',
        'environ.get("A")',
    ],
)
def test_a_reading_access_is_recognized(source):
    assert [key.value for key in reads(ast.parse(source))] == ["A"]


def test_every_variable_that_is_named_exists():
    texts = [*PACKAGE.rglob("*.py"), *(repository() / "docs").glob("*.md")]
    texts += repository().glob("README*.md")
    named = {
        (path.name, found)
        for path in texts
        for found in re.findall(r"\bLPRNET_[A-Z0-9_]*[A-Z0-9]", path.read_text("utf8"))
    }
    assert not {(place, name) for place, name in named if name not in NAMES | OF_SCRIPTS}
