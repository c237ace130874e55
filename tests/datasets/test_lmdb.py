"""The LMDB data set, against what ufwio 0.0.2 writes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import threading

import cv2
import lmdb
import numpy as np
import pytest

from lprnet_nb.datasets import lmdb as dataset
from lprnet_nb.datasets.folder import load_images
from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import DataError, ParameterError

# data.mdb of 25 arrays (below), written by ufwio 0.0.2 with lmdb 3.0, 4,096-byte pages.
UFWIO_FILE = "bce215bb137e3542829dbb63a439b6d294355a779b89efe1dbce0ed00182e078"
# ufwio dates from 2022: it imports from `collections` what has moved, and loads scikit-image
# without using it here.
UFWIO_WRITER = """
import collections, collections.abc, sys, types
collections.Iterable = collections.abc.Iterable
for name in ("skimage", "skimage.transform", "skimage.io"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["skimage"].io, sys.modules["skimage.transform"].resize = sys.modules["skimage.io"], None
import numpy as np, ufwio.io
data = ufwio.io.LMDB_Dataset(sys.argv[1], map_size=20_000_000)
for array in np.load(sys.argv[2]):
    data.put(array)
data.close()
"""
UFWIO_READER = (
    UFWIO_WRITER.split("data = ")[0]
    + """
np.save(sys.argv[2], np.stack([array for _, array in ufwio.io.lmdb_data(sys.argv[1])]))
"""
)


def arrays(count=25):
    made = np.random.default_rng(0)
    return np.stack([made.standard_normal((1, 3, 24, 94)).astype(np.float32) for _ in range(count)])


def ufwio(script, *arguments):
    if importlib.util.find_spec("ufwio") is None:
        pytest.skip("ufwio is not installed: pip install --no-deps ufwio")
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        timeout=120,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )


@pytest.fixture
def crops(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    made = np.random.default_rng(1)
    for index in range(7):
        cv2.imwrite(
            str(folder / f"{index}.png"), made.integers(0, 256, (24, 94, 3), dtype=np.uint8)
        )
    return folder


def test_file_is_the_one_that_ufwio_writes(tmp_path):
    assert dataset.write_lmdb(arrays(), tmp_path) == 25
    assert hashlib.sha256((tmp_path / "data.mdb").read_bytes()).hexdigest() == UFWIO_FILE


def test_same_bytes_as_the_package(tmp_path):
    np.save(tmp_path / "arrays.npy", arrays(120))  # more than one transaction
    (tmp_path / "theirs").mkdir()
    ufwio(UFWIO_WRITER, tmp_path / "theirs", tmp_path / "arrays.npy")
    dataset.write_lmdb(arrays(120), tmp_path / "ours")
    ours, theirs = ((tmp_path / name / "data.mdb").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs


@pytest.mark.slow
def test_published_images_through_the_package(tmp_path, published):
    images = preprocess(published.images)
    dataset.write_lmdb((image[None] for image in images), tmp_path / "set")
    ufwio(UFWIO_READER, tmp_path / "set", tmp_path / "back.npy")
    assert np.array_equal(np.load(tmp_path / "back.npy")[:, 0], images)


def test_round_trip(tmp_path):
    dataset.write_lmdb(arrays(), tmp_path)
    entries = list(dataset.read_lmdb(tmp_path))
    assert np.array_equal(np.stack([array for _, array in entries]), arrays())
    assert entries[0][0] == b"0000000000__ " and entries[24][0] == b"0000000024__ "


def test_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MAP_SIZE", 200_000)
    dataset.write_lmdb(arrays(), tmp_path)
    assert sum(1 for _ in dataset.read_lmdb(tmp_path)) == 25


def test_conversion_is_the_preprocessing(tmp_path, crops):
    assert dataset.convert_imageset(crops, tmp_path / "set") == 7
    expected = preprocess(load_images(crops).images)
    made = np.concatenate([array for _, array in dataset.read_lmdb(tmp_path / "set")])
    assert np.array_equal(made, expected)


def test_options_of_the_vendor(tmp_path, crops):
    bgr = preprocess(load_images(crops).images)
    dataset.convert_imageset(crops, tmp_path / "rgb", bgr2rgb=True)
    rgb = np.concatenate([array for _, array in dataset.read_lmdb(tmp_path / "rgb")])
    assert np.array_equal(rgb, bgr[:, ::-1])
    dataset.convert_imageset(crops, tmp_path / "gray", gray=True, resize_height=12, resize_width=47)
    assert {a.shape for _, a in dataset.read_lmdb(tmp_path / "gray")} == {(1, 1, 12, 47)}
    dataset.convert_imageset(crops, tmp_path / "shuffled", shuffle=True, seed=3)
    shuffled = np.concatenate([a for _, a in dataset.read_lmdb(tmp_path / "shuffled")])
    order = np.random.default_rng(3).permutation(7)
    assert np.array_equal(shuffled, bgr[order]) and not np.array_equal(shuffled, bgr)
    with pytest.raises(ParameterError, match="exclude"):
        dataset.convert_imageset(crops, tmp_path / "x", gray=True, bgr2rgb=True)


def test_stopped_conversion_goes_on(tmp_path, crops, monkeypatch):
    monkeypatch.setattr(dataset, "QUEUE", 2)
    seen = []

    def stop(step):
        seen.append(step)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.convert_imageset(crops, tmp_path / "set", advance=stop)
    assert sum(1 for _ in dataset.read_lmdb(tmp_path / "set")) == 4  # whole transactions
    later = []
    assert dataset.convert_imageset(crops, tmp_path / "set", advance=later.append) == 7
    assert sum(later) == 3
    made = np.concatenate([array for _, array in dataset.read_lmdb(tmp_path / "set")])
    assert np.array_equal(made, preprocess(load_images(crops).images))
    with pytest.raises(DataError, match="other images or options"):
        dataset.convert_imageset(crops, tmp_path / "set", bgr2rgb=True)


def test_pictures_that_were_replaced_are_not_those_of_the_set(tmp_path):
    """BMP files of one size have one number of bytes."""
    for value in (10, 200):
        cv2.imwrite(str(tmp_path / "a.bmp"), np.full((24, 94, 3), value, np.uint8))
        if value == 10:
            assert dataset.convert_imageset(tmp_path, tmp_path / "set") == 1
    with pytest.raises(DataError, match="already holds a data set, of other images"):
        dataset.convert_imageset(tmp_path, tmp_path / "set")


def test_two_conversions_at_once_make_one_set(tmp_path, crops, monkeypatch):
    waits, counts = threading.Event(), []
    monkeypatch.setattr(dataset, "note", lambda said: waits.set())

    def other():
        counts.append(dataset.convert_imageset(crops, tmp_path / "set"))

    second = threading.Thread(target=other)

    def during(_):
        if not second.ident:
            second.start()
            assert waits.wait(30)  # for the first one, and has not begun

    counts.append(dataset.convert_imageset(crops, tmp_path / "set", advance=during))
    second.join()
    assert counts == [7, 7] and sum(1 for _ in dataset.read_lmdb(tmp_path / "set")) == 7


def test_damage_is_named(tmp_path):
    with pytest.raises(DataError, match="no data.mdb"):
        next(dataset.read_lmdb(tmp_path / "nowhere"))
    with lmdb.open(str(tmp_path), lock=False) as store, store.begin(write=True) as transaction:
        transaction.put(b"0000000000__ ", b"\x22\x01x")
    with pytest.raises(DataError, match="0000000000__"):
        next(dataset.read_lmdb(tmp_path))
    with pytest.raises(ParameterError, match="float32"):
        dataset.encode_datum(np.zeros(3))
