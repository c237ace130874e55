"""Damaged files: what the cache holds is noticed and made again, what users bring is refused."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lprnet_nb.cache import file_digest
from lprnet_nb.datasets import fetch
from lprnet_nb.datasets.generate import generate_plates, write_plates
from lprnet_nb.datasets.lmdb import convert_imageset, read_lmdb
from lprnet_nb.model.train import TrainConfig, train
from lprnet_nb.model.weights import load_published_weights
from lprnet_nb.places import data_dir
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain.bmodel import BModel

from .world import Fault, Skip, World

# Kinds and files of the cache; those whose remaking compiles again are slow.
_QUICK = (("logits", "logits.npy"), ("logits", "seconds.json"), ("score", "readings.json"))
_LIBRARIES = (("emulator-kernels", "kernels.so"), ("shim", "shim.so"))
_SLOW = (
    ("trace", "LPRNet_model_trace.pt"),
    ("trace", "lprnet.onnx"),
    ("top", "lprnet.mlir"),
    ("calibration", "table"),
    ("bmodel", "lprnet.bmodel"),
    ("bmodel", "graph/graph.json"),
    ("bmodel", "graph/graph.npz"),
)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path, at: float = 0.5) -> None:
    """Flip one bit of a file, at a share of its length."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x10
    path.write_bytes(data)


_DAMAGES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("truncated", truncate),
    ("one bit flipped", flip),
)


def _in_cache(
    kind: str, file: str, damage: Callable[[Path], None], *, apart: bool
) -> Callable[[World], str]:
    def run(world: World) -> str:
        if apart:  # the other process makes its own
            shutil.rmtree(world.cache / "artifacts" / "logits")
            world.finish(world.start())
            shutil.rmtree(world.cache / "artifacts" / "logits")
        path = world.artifact(kind, file)
        before = file_digest(path)
        damage(path)
        if file_digest(path) == before:
            raise AssertionError("the damage did nothing")
        # A library that this process has loaded stays loaded; a new process loads it again.
        ended = world.finish(world.start()) if apart else world.result()
        aside = list((world.cache / "artifacts" / kind).glob(f".altered-*/*/{file}"))
        if len(aside) != 1:
            raise AssertionError("the damaged artifact was not set aside")
        return ended

    return run


def _list_of_files(world: World) -> str:
    world.artifact("logits", "files.json").write_text("[" * 100_000)
    return world.result()


def _bmodel_of_a_user(damage: Callable[[Path], None]) -> Callable[[World], str]:
    def run(world: World) -> str:
        model = BModel.load(world.artifact("bmodel", "lprnet.bmodel").parent)
        copy = world.folder / "mine.bmodel"
        copy.write_bytes(model.path.read_bytes())
        model.save_beside(copy)
        damage(copy)
        return world.error(lambda: open_engine(copy, "simulator"), "mine.bmodel")

    return run


def _weights(damage: Callable[[Path], None]) -> Callable[[World], str]:
    def run(world: World) -> str:
        with _published(world) as data:
            damage(data / "models" / "torch" / fetch.WEIGHTS)
            return world.error(load_published_weights, fetch.WEIGHTS)

    return run


def _image(damage: Callable[[Path], None]) -> Callable[[World], str]:
    def run(world: World) -> str:
        with _published(world) as data:
            image = sorted((data / "images" / "test").iterdir())[3]
            damage(image)
            return world.error(fetch.load_published, image.name)

    return run


@contextlib.contextmanager
def _published(world: World) -> Iterator[Path]:
    """A copy of the published data that this process takes for the real one."""
    if not fetch.is_published_data_here():
        raise Skip("the published data is not here; scripts/download.sh fetches it")
    data = world.folder / "data"
    for part in (fetch.weights_path(), fetch.images_folder()):
        target = data / part.relative_to(data_dir())
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if part.is_dir() else shutil.copy)(part, target)
    before = os.environ.get("LPRNET_DATA")
    os.environ["LPRNET_DATA"] = str(data)
    try:
        yield data
    finally:
        if before is None:
            del os.environ["LPRNET_DATA"]
        else:
            os.environ["LPRNET_DATA"] = before
        shutil.rmtree(data)


def _mended_download(world: World) -> str:
    with _published(world) as data:
        image = sorted((data / "images" / "test").iterdir())[3]
        whole = file_digest(image)
        truncate(image)
        mirror = data / "mirror"
        (mirror / "weights").mkdir(parents=True)
        (mirror / "data").mkdir()
        (mirror / "data" / "test").mkdir()
        fetch_from = image.with_suffix(".whole")
        fetch_from.write_bytes(b"not it")
        fetch_from.rename(mirror / "data" / "test" / image.name)
        said = world.error(lambda: fetch.fetch_published(mirror=mirror), image.name)
        if file_digest(image) == whole:
            raise AssertionError("a wrong file of the mirror was taken")
        return said


def _lmdb(damage: Callable[[Path], None]) -> Callable[[World], str]:
    def run(world: World) -> str:
        images, store = world.folder / "lmdb-images", world.folder / "lmdb"
        write_plates(generate_plates(12, seed=8), images)
        convert_imageset(images, store)
        expected = [array.tobytes() for _, array in read_lmdb(store)]
        damage(store / "data.mdb")
        try:
            return world.error(lambda: _same(store, expected), "lmdb")
        finally:
            _remove(images, store)

    return run


def _same(store: Path, expected: list[bytes]) -> None:
    if [array.tobytes() for _, array in read_lmdb(store)] != expected:
        raise AssertionError("damaged arrays were read without a word")


def _checkpoint(damage: Callable[[Path], None]) -> Callable[[World], str]:
    def run(world: World) -> str:
        folder = world.folder / "train"
        config = TrainConfig(folder / "w.pth", folder / "w.checkpoint", steps=2, batch=2, seed=1)
        train(config)
        damage(config.checkpoint)
        try:
            return world.error(lambda: train(config), "w.checkpoint")
        finally:
            _remove(folder)

    return run


def _grown_array(world: World) -> str:
    """A shard whose array is another's: the right length, the wrong values."""
    path = world.artifact("logits", "logits.npy")
    np.save(path, np.load(path) + 1)
    return world.result()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def faults() -> list[Fault]:
    """Truncated and altered files of every kind."""
    found = []
    for label, damage in _DAMAGES:
        found += [
            Fault(f"artifact: {kind}/{file} {label}", _in_cache(kind, file, damage, apart=False))
            for kind, file in _QUICK
        ]
        found += [
            Fault(
                f"artifact: {kind}/{file} {label}",
                _in_cache(kind, file, damage, apart=True),
                slow=True,
            )
            for kind, file in _LIBRARIES
        ]
        found += [
            Fault(
                f"artifact: {kind}/{file} {label}",
                _in_cache(kind, file, damage, apart=False),
                slow=True,
            )
            for kind, file in _SLOW
        ]
        found += [
            Fault(f"file: BModel of a user {label}", _bmodel_of_a_user(damage)),
            Fault(f"file: published weights {label}", _weights(damage)),
            Fault(f"file: published image {label}", _image(damage)),
            Fault(f"file: LMDB {label}", _lmdb(damage)),
            Fault(f"file: training checkpoint {label}", _checkpoint(damage), slow=True),
        ]
    return [
        *found,
        Fault("artifact: list of digests replaced by nonsense", _list_of_files),
        Fault("artifact: shard with other values", _grown_array),
        Fault("file: mirror with a wrong image", _mended_download),
    ]
