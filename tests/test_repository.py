"""The repository as a whole: notebooks stripped, links whole, nothing of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _tracked() -> list[str]:
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files are ours is not known")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _text(name: str) -> str | None:
    try:
        return (ROOT / name).read_text("utf8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_have_parameters(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        assert not cell.outputs and cell.execution_count is None, f"code cell {number} has output"
        assert not set(cell.metadata) - {"tags", "jupyter", "editable", "slideshow"}, cell.metadata
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1], "the first code cell, and only that, is tagged 'parameters'"
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"[A-Z_]+ = .+|\s*(#.*)?", line), f"not a plain parameter: {line}"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def _anchor(heading: str, name: str) -> str:
    """Id of a heading: Jupyter keeps all but spaces, GitHub letters, digits and dashes only."""
    plain = re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip()
    if name.endswith(".ipynb"):
        return plain.replace(" ", "-")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def _links(text: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    return re.findall(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose) + re.findall(
        r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", prose
    )


def test_relative_links_lead_somewhere() -> None:
    broken = []
    tracked = _tracked()
    sources = {name: _text(name) or "" for name in tracked if name.endswith(".md")}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        sources[path.relative_to(ROOT).as_posix()] = "\n\n".join(
            cell.source for cell in cells if cell.cell_type == "markdown"
        )
    for name, text in sources.items():
        for link in _links(text):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, fragment = unquote(link).partition("#")
            target = (ROOT / name).parent / place if place else ROOT / name
            if not target.exists():
                broken.append(f"{name}: {link}")
            elif fragment and target.suffix in (".md", ".ipynb"):
                other = target.resolve().relative_to(ROOT).as_posix()
                inside = sources.get(other, "")
                named = {
                    _anchor(found, other) for found in re.findall(r"^#+\s+(.+)$", inside, re.M)
                }
                named |= set(re.findall(r"\b(?:id|name)=\"([^\"]+)\"", inside))
                if fragment not in named:
                    broken.append(f"{name}: {link}")
    assert not broken, broken


def test_files_that_the_readmes_name_exist() -> None:
    missing = []
    for name in _tracked():
        if not re.fullmatch(r"(README[^/]*|CONTRIBUTING|docs/.+)\.md", name):
            continue
        for found in re.findall(
            r"`((?:scripts|notebooks|docs|tests|lprnet_nb)/[\w./-]+)", _text(name) or ""
        ):
            if not (ROOT / found.rstrip(".,/")).exists():
                missing.append(f"{name}: {found}")
    assert not missing, missing


def test_nothing_speaks_of_one_machine() -> None:
    place = re.compile(r"(?<![\w.}$*-])/(?:work|root|home|tmp|Users|mnt)/(?!you|my)[\w.]+")
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name in _tracked()
        if name != "tests/test_repository.py"
        and not name.endswith((".ttf", ".pth"))
        and (text := _text(name))
        for match in place.finditer(text)
    ]
    assert not found, found


def test_lock_file_has_exact_versions_and_no_addresses() -> None:
    path = ROOT / "requirements.lock"
    if not path.exists():
        pytest.skip("there is no requirements.lock yet")
    for line in path.read_text("utf8").splitlines():
        entry = line.partition("#")[0].strip()
        assert "://" not in line and not entry.startswith("-"), line
        assert not entry or re.fullmatch(r"[A-Za-z0-9._-]+==[\w.!+-]+(\s*;.*)?", entry), line
