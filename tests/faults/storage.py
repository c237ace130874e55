"""Disks that are full or read-only, folders that are not ours, and runs that share a cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lprnet_nb.cache import artifact
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.lmdb import write_lmdb
from lprnet_nb.files import atomic_write

from .world import Fault, Skip, World

_SMALL = 3 << 20  # bytes of the small disk


@contextlib.contextmanager
def small_disk(folder: Path, size: int = _SMALL) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise Skip(f"no file system can be mounted here ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for everybody, root included."""
    for arguments in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        made = subprocess.run(["mount", *arguments], capture_output=True, text=True)
        if made.returncode:
            raise Skip(f"no folder can be mounted read-only here ({made.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _full_cache(world: World) -> str:
    """The disk fills up while a shard is written; what was finished before is kept."""
    with small_disk(world.folder / "small") as disk, _cache(disk):
        first = artifact("kept", {"n": 1}, lambda folder: _write(folder, 1 << 20))
        said = world.error(
            lambda: artifact("large", {"n": 2}, lambda folder: _write(folder, 2 * _SMALL)),
            "Finished work is kept",
        )
        again = artifact("kept", {"n": 1}, _never)
        left = [path.name for path in (disk / "artifacts" / "large").iterdir() if path.is_dir()]
        if first != again or left:
            raise AssertionError(f"half an artifact stayed: {left}")
        return said


def _write(folder: Path, size: int) -> None:
    with open(folder / "data", "wb") as file:
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))


def _never(folder: Path) -> None:
    raise AssertionError("finished work was done again")


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ["LPRNET_CACHE"]
    os.environ["LPRNET_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ["LPRNET_CACHE"] = before


def _full_whole_run(world: World) -> str:
    """The disk of the whole cache fills up during a run; with room again the run goes on."""
    shutil.rmtree(world.cache / "artifacts" / "logits")
    shutil.rmtree(world.cache / "artifacts" / "score")
    size = sum(path.stat().st_size for path in world.cache.rglob("*") if path.is_file())
    place = world.folder / "small"
    with small_disk(place, size + (1 << 20)) as disk:
        shutil.copytree(world.cache, disk / "cache", symlinks=True)
        filler = disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb") as file:
            while True:
                file.write(bytes(1 << 12))
        process = world.start(LPRNET_CACHE=str(disk / "cache"))
        _, errors = process.communicate(timeout=600)
        if process.returncode != 2 or "space" not in errors:
            raise AssertionError(f"ended with {process.returncode}: {errors[-1500:]}")
        filler.unlink()
        return world.finish(world.start(LPRNET_CACHE=str(disk / "cache")))


def _full_report(world: World) -> str:
    with small_disk(world.folder / "small", 1 << 16) as disk:
        atomic_write(disk / "metrics.json", "old")
        said = world.error(
            lambda: atomic_write(disk / "metrics.json", "x" * (1 << 20)), "cannot write"
        )
        if (disk / "metrics.json").read_text() != "old" or len(list(disk.iterdir())) != 1:
            raise AssertionError("the old file was lost, or a part of the new one stayed")
        return said


def _full_lmdb(world: World) -> str:
    arrays = [np.full((1, 3, 24, 94), value, np.float32) for value in range(600)]
    with small_disk(world.folder / "small") as disk:
        return world.error(lambda: write_lmdb(arrays, disk / "lmdb"), "What was committed")


def _read_only_cache_complete(world: World) -> str:
    with read_only(world.cache):
        return world.result()


def _read_only_cache_incomplete(world: World) -> str:
    shutil.rmtree(world.cache / "artifacts" / "logits")
    with read_only(world.cache):
        said = world.error(world.result, "LPRNET_CACHE")
    world.result()
    return said


def _unwritable_report(world: World) -> str:
    from lprnet_nb.measure.output import Output

    folder = world.folder / "unwritable"
    folder.mkdir(exist_ok=True)
    with read_only(folder):
        return world.error(lambda: Output(folder).json("metrics", {}), "cannot write")


def _file_in_the_way(world: World) -> str:
    """A file lies where a folder is needed."""
    shutil.rmtree(world.cache / "artifacts" / "logits")
    (world.cache / "artifacts" / "logits").write_text("in the way")
    said = world.error(world.result, "LPRNET_CACHE")
    (world.cache / "artifacts" / "logits").unlink()
    world.result()
    return said


def _two_runs(world: World) -> str:
    """Two processes with the same empty place: both have the result, the work is done once."""
    for kind in ("trace", "logits", "score", "emulator-kernels", "shim"):
        shutil.rmtree(world.cache / "artifacts" / kind)
    both = [world.start(), world.start()]
    ended = {world.finish(process) for process in both}
    built = list((world.cache / "artifacts").glob("*/.altered-*"))
    if built:
        raise AssertionError(f"one run set the other's work aside: {built}")
    return ended.pop()


def _once(world: World) -> str:
    """Eight processes ask for one artifact; one of them makes it."""
    import sys

    script = (
        "import os, time; from pathlib import Path; from lprnet_nb.cache import artifact\n"
        "def build(folder):\n"
        "    with open(os.environ['COUNT'], 'a') as file: file.write('built\\n')\n"
        "    time.sleep(1); (folder / 'x').write_text('x')\n"
        "artifact('once', {}, build)"
    )
    count = world.folder / "count"
    count.unlink(missing_ok=True)
    several = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=world.environment() | {"COUNT": str(count)}
        )
        for _ in range(8)
    ]
    if any(process.wait(120) for process in several) or count.read_text() != "built\n":
        raise AssertionError(f"it was made {len(count.read_text().split())} times")
    return "same result"


def _rubbish(world: World) -> str:
    """What killed builds of another day left lies about, and a lock file that nobody holds."""
    shard = world.artifact("logits", "logits.npy").parent
    (shard.parent / f".{shard.name}.half").mkdir()
    shutil.rmtree(shard)
    world.result()
    if (shard.parent / f".{shard.name}.half").exists():
        raise AssertionError("half an artifact was left lying")
    return "same result"


def _vanished_image(world: World) -> str:
    from lprnet_nb.datasets.folder import list_plates
    from lprnet_nb.datasets.generate import write_plates

    folder = world.folder / "vanishing"
    write_plates(generate_plates(5, seed=9), folder)
    files = list_plates(folder)
    (folder / files.names[2]).unlink()
    try:
        return world.error(files.read, files.names[2])
    finally:
        shutil.rmtree(folder)


def faults() -> list[Fault]:
    """Full, read-only and shared places."""
    return [
        Fault("disk: full while an artifact is made", _full_cache),
        Fault("disk: full during a whole run, then room again", _full_whole_run, slow=True),
        Fault("disk: full while a report is written", _full_report),
        Fault("disk: full while an LMDB is written", _full_lmdb),
        Fault("cache: read-only and complete", _read_only_cache_complete),
        Fault("cache: read-only and incomplete", _read_only_cache_incomplete),
        Fault("cache: a file where a folder belongs", _file_in_the_way),
        Fault("cache: rubbish of killed builds", _rubbish),
        Fault("cache: two whole runs at once", _two_runs, slow=True),
        Fault("cache: eight processes want one artifact", _once, slow=True),
        Fault("report: folder that cannot be written", _unwritable_report),
        Fault("images: one vanishes after the folder was listed", _vanished_image),
    ]
