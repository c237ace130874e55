from __future__ import annotations

import json
import multiprocessing
import os

import numpy as np
import pytest

from lprnet_nb.cache import array_digest, artifact, atomic_write, digest, find_artifact
from lprnet_nb.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))


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
