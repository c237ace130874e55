"""One source of versions: pyproject.toml names the packages, requirements.lock the versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
LOCKED = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    extra = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    return [Requirement(text) for text in PROJECT["dependencies"] + extra]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_locked_to_a_version_that_satisfies_it(requirement):
    locked = {canonical(name): value for name, value in LOCKED.items()}
    assert locked[canonical(requirement.name)] in requirement.specifier


def test_torch_is_the_version_that_the_project_is_measured_with():
    assert LOCKED["torch"] == "2.13.0"


def test_the_lock_holds_no_addresses():
    assert not re.search(r"https?:|file:|@", (ROOT / "requirements.lock").read_text())


def test_conda_users_get_the_same_from_the_same_source():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *_, pip = environment["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    assert pip == {"pip": ["-c requirements.lock", "-e .[lab,test]"]}
