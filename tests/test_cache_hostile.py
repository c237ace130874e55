"""Artifacts that other machines send, with names that try to get out; keys, digests, leftovers."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.cache import adopt_artifact, array_digest, artifact, find_artifact, pack_artifact
from lprnet_nb.errors import DataError
from lprnet_nb.places import cache_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sent() -> tuple[Path, dict[str, bytes]]:
    """An artifact's place and files; it is not in the cache any more."""
    folder = artifact("thing", {"a": 1}, lambda place: (place / "value").write_bytes(b"42"))
    files = pack_artifact(folder)
    folder.rename(folder.parent.parent.parent.parent / "elsewhere")
    return folder, files


def everything(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.name.endswith(".lock")
    }


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "../../../outside",
        "a/../../outside",
        "..",
        "./../outside",
        "a/b/../../../outside",
        "{root}/outside",
        "//{root}/outside",
        "../{key}x/outside",
    ],
)
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(sent, tmp_path, name):
    folder, files = sent
    before = everything(tmp_path)
    hostile = name.format(root=tmp_path, key=folder.name)
    with pytest.raises(DataError, match="leads out"):
        adopt_artifact(folder, {**files, hostile: b"hostile"})
    assert everything(tmp_path) == before and not folder.exists()


@pytest.mark.parametrize(
    "names", [("",), (".",), ("a\0b",), ("value/below",), ("x" * 300,), ("\ud800",)]
)
def test_a_name_that_cannot_be_written_is_one_clear_error(sent, tmp_path, names):
    folder, files = sent
    before = everything(tmp_path)
    with pytest.raises(DataError, match=folder.name):
        adopt_artifact(folder, {**files, **dict.fromkeys(names, b"hostile")})
    assert everything(tmp_path) == before and not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "皖A12345.jpg",
        "a b",
        "-rf",
        "...",
        "line\nbreak",
        "'\"<script>",
        "a/b/c",
        "a/..b",
        "\\..\\b",
    ],
)
def test_a_harmless_name_arrives(sent, name):
    folder, files = sent
    listed = json.loads(files["files.json"]) | {name: hashlib.sha256(b"1").hexdigest()}
    adopt_artifact(folder, {**files, name: b"1", "files.json": json.dumps(listed).encode()})
    assert find_artifact("thing", {"a": 1}) == folder and (folder / name).read_bytes() == b"1"
    assert (folder / "value").read_bytes() == b"42"


@pytest.mark.parametrize("change", [{"value": b"43"}, {"files.json": b"{}x"}, {"files.json": b""}])
def test_what_arrives_damaged_is_refused(sent, tmp_path, change):
    folder, files = sent
    before = everything(tmp_path)
    with pytest.raises(DataError, match="damaged"):
        adopt_artifact(folder, files | change)
    assert everything(tmp_path) == before


def test_what_is_there_is_kept(sent):
    folder, files = sent
    adopt_artifact(folder, files)
    adopt_artifact(folder, {**files, "value": b"43"})
    assert (folder / "value").read_bytes() == b"42"


def test_a_killed_builds_leftovers_go_and_others_stay(sent):
    folder, files = sent
    left = [folder.parent / f".{folder.name}.{kind}" for kind in ("one", "two")]
    for place in left:
        place.mkdir()
        (place / "half").write_text("x")
    other = folder.parent / ".0123456789abcdef0123.running"
    other.mkdir()
    adopt_artifact(folder, files)
    assert not [place for place in left if place.exists()] and other.exists()
    left[0].mkdir()
    (folder / "value").unlink()
    artifact("thing", {"a": 1}, lambda place: (place / "value").write_bytes(b"42"))
    assert not left[0].exists() and other.exists()


def test_keys_are_long_enough_to_be_unique():
    names = {artifact("thing", {"a": n}, lambda place: None).name for n in range(50)}
    assert len(names) == 50 and {len(name) for name in names} == {20}  # 80 bits
    assert artifact("other", {"a": 0}, lambda place: None).name not in names
    assert artifact("thing", {"a": 0}, lambda place: None).parent == cache_dir() / "artifacts/thing"


def test_arrays_of_the_same_bytes_have_digests_of_their_own():
    raw = np.arange(8, dtype=np.int32)
    arrays = [
        raw,
        raw.view(np.uint32),
        raw.view(np.float32),
        raw.view(">i4"),
        raw.view(np.int64),
        raw.reshape(2, 4),
        raw.reshape(4, 2),
        raw + 1,
    ]
    digests = [array_digest(array) for array in arrays]
    assert not [pair for pair in combinations(digests, 2) if pair[0] == pair[1]]
    assert array_digest(raw, raw) not in digests
