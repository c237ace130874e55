"""Tests of the tests: wrong code goes in, one piece at a time, and the quick tests must notice.

The changes are in `changes`. Each goes into a copy of the package; the checkout stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import child
import pytest
from changes import FOUND, MORE, Change
from child import Done

from lprnet_nb.places import cache_dir, data_dir

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lprnet_nb"
CHANGES = (*FOUND, *MORE)
KINDS = {".py", ".j2", ".js", ".css"}


def pattern(text: str) -> re.Pattern[str]:
    """A text however its lines are laid out: white space, and a comma before what closes."""
    laid_out = (
        (r"\\([(\[{])", r"\\\1\\s*"),  # after what opens
        (r"\\([)\]}])", r"(?:,?\\s*)\\\1"),
    )
    found = r"\s+".join(map(re.escape, text.split()))
    for before, after in laid_out:
        found = re.sub(before, after, found)
    return re.compile(found)


def place(package: Path, change: Change) -> Path | None:
    """The file that has the text, which is there once in the whole package."""
    found = [
        path
        for path in sorted(package.rglob("*"))
        if path.suffix in KINDS
        for _ in pattern(change.before).finditer(path.read_text("utf8"))
    ]
    if not found and change.may_be_gone:
        return None
    assert len(found) == 1, (
        f"{change.name}: {change.before!r} is in the package {len(found)} "
        f"times, {[path.name for path in found]}. Mend the list of changes."
    )
    return found[0]


def run(workshop: Path, cache: Path, targets: list[str], limit: float = 900) -> Done:
    """Pytest in a copy of the checkout, with a cache of its own, for so many seconds at most."""
    return child.run(
        workshop,
        {"LPRNET_CACHE": str(cache), "LPRNET_DATA": str(data_dir())},
        targets,
        cache.with_suffix(".log"),
        limit=limit,
    )


def copy_cache(source: Path, target: Path) -> Path:
    """A cache of the same content: what wrong code leaves in it must not stay in use."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != "artifacts":
            (target / path.name).symlink_to(path.resolve())
    if (source / "artifacts").is_dir():
        shutil.copytree(source / "artifacts", target / "artifacts", copy_function=os.link)
    return target


@pytest.fixture(scope="module")
def workshop(compiler, tmp_path_factory) -> Path:
    """A copy of package and tests, of which pytest imports the copied package."""
    folder = tmp_path_factory.mktemp("workshop")
    for path in ROOT.iterdir():
        if path.name in ("lprnet_nb", "tests"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def good_cache(workshop, tmp_path_factory) -> Path:
    """The cache after all targets have passed with the package as it is."""
    folder = tmp_path_factory.mktemp("cache") / "good"
    folder.mkdir()
    for path in cache_dir().iterdir():
        if path.name.startswith("tpu_mlir"):
            (folder / path.name).symlink_to(path.resolve())
    targets = sorted({change.tests for change in CHANGES if place(PACKAGE, change)})
    done = run(workshop, folder, targets, 7200)  # all of them, compiling anew
    assert done.status == 0, f"without any change:\n{done.said}"
    return folder


@pytest.fixture
def cache(good_cache, tmp_path) -> Iterator[Path]:
    folder = copy_cache(good_cache, tmp_path / "cache")
    yield folder
    shutil.rmtree(folder)


def test_the_list_is_readable_and_fits_the_package():
    names = [change.name for change in CHANGES]
    assert len(set(names)) == len(names) and len(FOUND) == 38 and len(MORE) >= 15
    for change in CHANGES:
        assert change.before.split() != change.after.split(), change.name
        if place(PACKAGE, change) is not None:
            assert (ROOT / change.tests.split("::")[0]).is_file(), change.name


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name.replace(" ", "-"))
def test_a_change_is_noticed(workshop, cache, change):
    found = place(workshop / "lprnet_nb", change)
    if found is None:
        pytest.skip("the function is gone")
    text = found.read_text("utf8")
    found.write_text(pattern(change.before).sub(lambda _: change.after, text), "utf8")
    try:
        done = run(workshop, cache, [change.tests])
    finally:
        found.write_text(text, "utf8")
    # Neither passed nor broken in another way, such as a target that is not there.
    assert done.status == 1 and re.search(r"\d+ (failed|error)", done.said), (
        f"{change.name} in {found.name} is not noticed by {change.tests}:\n{done.said}"
    )
