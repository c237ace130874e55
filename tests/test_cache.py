from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb import cache
from lprnet_nb.cache import (
    PRIVATE_VARIABLE,
    array_digest,
    artifact,
    digest,
    find_artifact,
    is_made_here,
    is_trusted,
    locked,
)
from lprnet_nb.errors import DataError
from lprnet_nb.files import atomic_write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(PRIVATE_VARIABLE, "")


def test_an_artifact_is_built_once_and_keyed_by_all_inputs():
    built = []

    def build(folder):
        built.append(folder)
        (folder / "value").write_text("42")

    first = artifact("thing", {"a": 1, "b": [2]}, build)
    again = artifact("thing", {"b": [2], "a": 1}, build)
    other = artifact("thing", {"a": 1, "b": [3]}, build)
    assert first == again and first != other and len(built) == 2
    assert (first / "value").read_text() == "42"
    assert json.loads((first / "inputs.json").read_text()) == {"a": 1, "b": [2]}
    assert find_artifact("thing", {"a": 1, "b": [2]}) == first
    assert find_artifact("thing", {"a": 9}) is None


def test_a_failed_build_leaves_nothing():
    def build(folder):
        (folder / "half").write_text("x")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        artifact("thing", {"a": 1}, build)
    assert find_artifact("thing", {"a": 1}) is None
    parent = artifact("thing", {"a": 2}, lambda folder: None).parent
    assert sorted(p.name for p in parent.iterdir() if not p.name.endswith(".lock")) == [
        artifact("thing", {"a": 2}, lambda folder: None).name
    ]


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_an_altered_artifact_is_set_aside_and_built_again(harm, caplog):
    def build(folder):
        (folder / "value").write_bytes(bytes(range(256)))

    folder = artifact("thing", {"a": 1}, build)
    target = folder / "value"
    if harm == "delete":
        target.unlink()
    else:
        raw = bytearray(target.read_bytes())
        raw[100] ^= 1
        target.write_bytes(raw if harm == "flip" else raw[:50])
    assert artifact("thing", {"a": 1}, build) == folder
    assert target.read_bytes() == bytes(range(256))
    assert "was altered" in caplog.text


@pytest.mark.parametrize(
    "listed",
    ["{}", "[]", '{"value": 1}', "", "[" * 100_000],
    ids=["{}", "[]", "1", "no", "deep"],
)
def test_a_list_that_does_not_name_all_files_is_not_believed(listed):
    folder = artifact("thing", {"a": 1}, lambda place: (place / "value").write_text("42"))
    (folder / "value").write_text("43")
    (folder / "files.json").write_text(listed)
    assert find_artifact("thing", {"a": 1}) is None
    artifact("thing", {"a": 1}, lambda place: (place / "value").write_text("42"))
    assert (folder / "value").read_text() == "42"


@pytest.mark.parametrize("extra", ["more", "deeper/more", "link"])
def test_a_file_or_link_that_the_list_lacks_is_an_alteration(extra, tmp_path):
    folder = artifact("thing", {"a": 1}, lambda place: (place / "value").write_text("42"))
    (folder / extra).parent.mkdir(exist_ok=True)
    if extra == "link":
        (folder / extra).symlink_to(tmp_path)
    else:
        (folder / extra).write_text("x")
    assert find_artifact("thing", {"a": 1}) is None


def _harm(how: str, folder: Path, root: Path) -> Path:
    """Let others than the user write to an artifact; returns where."""
    place = {
        "parent": root / "cache" / "artifacts",
        "cache": root / "cache",
        "file": folder / "code.so",
        "owner": folder / "code.so",
        "folder": folder,
    }[how]
    if how == "owner":
        if os.getuid():
            pytest.skip("only root can give a file away")
        os.chown(place, 4321, -1)
    else:
        place.chmod(0o777 if how != "folder" else 0o757)
    return place


@pytest.mark.parametrize("how", ["parent", "cache", "file", "owner", "folder"])
def test_code_that_others_may_write_is_made_privately_and_said_once(how, tmp_path, caplog):
    def build(folder):
        (folder / "code.so").write_text("made")

    folder = artifact("shim", {"a": 1}, build)
    data = artifact("logits", {"a": 1}, build)
    assert folder.is_relative_to(tmp_path) and is_made_here(folder / "code.so")
    place = _harm(how, folder, tmp_path)
    apart = artifact("shim", {"a": 1}, build)
    assert not apart.is_relative_to(tmp_path) and is_trusted(apart)
    assert (apart / "code.so").read_text() == "made"
    assert artifact("shim", {"a": 1}, build) == apart == find_artifact("shim", {"a": 1})
    assert artifact("logits", {"a": 1}, build) == data  # no code: digests say enough
    assert not is_made_here(folder / "code.so") and is_made_here(apart / "code.so")
    assert os.environ[PRIVATE_VARIABLE] == str(apart.parent.parent)  # so children find it
    assert caplog.text.count("no code is run from that cache") == 1 and str(place) in caplog.text


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_made_under_any_umask_is_trusted(umask):
    def build(folder):
        (folder / "deeper").mkdir()
        (folder / "deeper" / "code.so").write_text("made")

    before = os.umask(umask)
    try:
        folder = artifact("shim", {"a": 1}, build)
    finally:
        os.umask(before)
    assert is_trusted(folder) and find_artifact("shim", {"a": 1}) == folder


def test_a_folder_of_all_users_is_fine_where_each_may_touch_only_his_own(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "tmp" / "mine").mkdir(mode=0o700)
    assert is_trusted(tmp_path / "tmp" / "mine") and not is_trusted(tmp_path / "tmp")
    (tmp_path / "tmp").chmod(0o777)
    assert not is_trusted(tmp_path / "tmp" / "mine" / "not" / "there" / "yet")


def test_who_waits_for_anothers_lock_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_PATIENCE", 0.05)
    said, go = [], threading.Event()

    def say(text):
        said.append(text)
        go.set()

    def hold():
        with locked(tmp_path / "report", "this report"):
            held.set()
            go.wait(60)

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    with locked(tmp_path / "report", "this report", say):
        assert said == [
            f"waiting for another process that works on this report ({tmp_path / 'report'}) …"
        ]
    other.join()


@pytest.mark.parametrize("variable", ["LPRNET_CACHE", "LPRNET_DATA", "LPRNET_REPORTS"])
def test_the_advice_names_the_variable_of_the_place(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "place"))
    (tmp_path / "place").write_text("in the way")
    for act in (
        lambda: locked(tmp_path / "place" / "x", "things").__enter__(),
        lambda: atomic_write(tmp_path / "place" / "x", "y"),
    ):
        with pytest.raises(DataError, match=variable):
            act()


def _build_slowly(index, log, gate):
    def build(folder):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        gate.wait(0.2)
        (folder / "value").write_text("same")

    artifact("shared", {"a": 1}, build)


def test_two_processes_build_one_artifact_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    gate = context.Event()
    workers = [
        context.Process(target=_build_slowly, args=(i, tmp_path / "log", gate)) for i in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1


def test_an_unwritable_cache_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="LPRNET_CACHE"):
        artifact("thing", {"a": 1}, lambda folder: None)


def test_atomic_write_keeps_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = atomic_write(tmp_path / "f", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(DataError, match="No space"):
        atomic_write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.glob(".f.*")) == []


def test_digests_are_those_of_sha256():
    # printf '{"a":2,"b":1}' | sha256sum
    assert (
        digest({"b": 1, "a": 2})
        == "d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772"
    )
    a = np.arange(6, dtype=np.float32)
    assert array_digest(a) != array_digest(a.reshape(2, 3)) != array_digest(a.astype(np.float64))
    assert array_digest(a[::2]) == array_digest(a[::2].copy())
