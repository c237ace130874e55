"""C. Hangs and leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from lprnet_nb.cache import locked
from lprnet_nb.datasets.ccpd import stream_ccpd
from lprnet_nb.decode.grammar import load_grammar
from lprnet_nb.errors import LprnetError
from lprnet_nb.files import private_folder

from .probes import Table
from .processes import forget, until_at_work
from .scene import CCPD_NAME, READ, Scene, read_output, same
from .world import Skip, World, check_nothing_left

C = Table()
Trap = Callable[[Path], None]


def fifo(path: Path) -> None:
    """A FIFO that nobody writes into."""
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to a device without an end."""
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    """A file of a terabyte that takes no room."""
    try:
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    except OSError as error:
        raise Skip(f"no sparse file of a terabyte: {error}") from error


def listening(path: Path) -> None:
    """A socket."""
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


TRAPS: dict[str, Trap] = {
    "a FIFO": fifo,
    "/dev/zero": endless,
    "a sparse file of 1 TB": sparse,
    "a socket": listening,
}
# Where a file of a user's goes: its name, and the command that reads it.
_PLACES: dict[str, tuple[str, Callable[[Scene, Path], tuple]]] = {
    "a picture": ("a.png", lambda scene, path: (*READ, scene.model(), path)),
    "a picture in a folder": (
        "plates/9.png",
        lambda scene, path: (*READ, scene.model(), path.parent),
    ),
    "a list of pictures": ("list.txt", lambda scene, path: (*READ, scene.model(), path)),
    "a label file": (
        "labels.csv",
        lambda scene, path: ("evaluate", scene.text("r.json", '{"a.png": "皖A12345"}'), path),
    ),
    "a results file": (
        "r.json",
        lambda scene, path: ("evaluate", path, scene.text("l.csv", "a.png,皖A12345\n")),
    ),
    "a BModel": ("m.bmodel", lambda scene, path: (*READ, _recorded(scene, path), scene.picture())),
    "a BModel's record": ("m.json", lambda scene, path: (*READ, _beside(path), scene.picture())),
    "weights": ("w.pth", lambda scene, path: ("trace", "--weights", path)),
    "a class list": ("c.txt", lambda scene, path: ("trace", "--classes", path)),
    "a grammar": (
        "g.toml",
        lambda scene, path: (*READ, scene.model(), scene.picture(), "--decoder", path),
    ),
    "a strategy": (
        "s.json",
        lambda scene, path: (
            *("compile", "BM1688", "--precisions", "int8", "--weights", "generated"),
            *("--data", "generated", "--strategy", path),
        ),
    ),
    "a picture for lmdb": (
        "plates/9.png",
        lambda scene, path: ("lmdb", "--imageset-rootfolder", path.parent),
    ),
}


def _recorded(scene: Scene, path: Path) -> Path:
    model = scene.model()
    record = json.loads((model / "record.json").read_text("utf8"))
    scene.text("m.json", json.dumps(record | {"path": path.name, "graph": None}))
    return path


def _beside(path: Path) -> Path:
    path.with_suffix(".bmodel").write_bytes(b"model")
    return path.with_suffix(".bmodel")


def _bad_input(scene: Scene, place: str, trap: Trap) -> str:
    name, command = _PLACES[place]
    path = scene.folder / name
    if path.parent != scene.folder:
        scene.plates()
    trap(path)
    if trap is fifo and path.parent != scene.folder:  # in a folder, what is no file is left out
        said = " ".join(scene.done(*command(scene, path)).errors.split())
        return same("files that are no pictures" in said and "left out" in said, True)
    return scene.refused(*command(scene, path), says=path.name)


for _slow in (False, True):  # with a FIFO everywhere quickly; the others are read likewise
    C.probes(
        "C15",
        {
            f"{trap} as {place}": (place, TRAPS[trap])
            for place in _PLACES
            for trap in TRAPS
            # What takes all memory everywhere too; the rest where strangers' files come.
            if trap in ("a FIFO", "a sparse file of 1 TB")
            or place in ("a picture", "a label file", "weights")
            if _slow == (trap != "a FIFO" and place not in ("a picture", "a label file"))
        },
        before="hangs, or takes all memory",
        slow=_slow,
    )(_bad_input)


@C.probe("C15", "a FIFO among CCPD's pictures", before="hangs")
def _(scene: Scene) -> str:
    fifo(scene.folder / CCPD_NAME)
    ended: list[str] = []

    def read() -> None:
        try:
            ended.append(f"same result: {len([*stream_ccpd(scene.folder)])}")
        except LprnetError as error:
            ended.append(f"one error: {scene.plain(str(error))}")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    if not ended:
        raise AssertionError("it hangs")
    return ended[0]


@C.probe("C15", "a folder of pictures that leads back into itself", before="hangs")
def _(scene: Scene) -> str:
    plates = scene.plates()
    (plates / "again").symlink_to(plates)
    ended = scene.run("evaluate", plates / "labels.json", plates)
    if ended.status is None:
        raise AssertionError("it hangs")
    return same(ended.status in (0, 2) and "Traceback" not in ended.errors, True)


@C.probe("C15", "an artifact whose list is a FIFO", before="hangs")
def _(scene: Scene) -> str:
    model = scene.model()
    (model / "files.json").unlink()
    fifo(model / "files.json")
    ended = scene.done(*READ, model, scene.picture())
    return same(read_output(ended), scene.stage.read)  # the record's seals are enough


@C.probe("C15", "an artifact that holds a FIFO", before="hangs")
def _(scene: Scene) -> str:
    model = scene.model()
    fifo(model / "more")
    return scene.refused(*READ, model, scene.picture(), says=str(model.name))


@C.probe("C15", "a grammar that is a FIFO, by the function", before="hangs")
def _(scene: Scene) -> str:
    path = scene.folder / "g.toml"
    fifo(path)
    return scene.world.error(lambda: load_grammar(str(path)), "g.toml")


@C.probe("C15", "labels of 40 MB in one line", slow=True)
def _(scene: Scene) -> str:
    path = scene.text("l.csv", "a.png," + "皖" * 13_000_000)
    results = scene.text("r.json", '{"a.png": "皖A12345"}')
    ended = scene.run("evaluate", results, path)
    return same(ended.status in (0, 2) and "Traceback" not in ended.errors, True)


# 14: workers that stall

_STALLED_SECONDS = 15.0  # in place of the package's, which spare a worker of a busy machine


def _worker(work: subprocess.Popen, *known: int) -> int:
    """Wait for a worker process that a run starts, other than those known."""
    while work.poll() is None:
        for child in psutil.Process(work.pid).children():
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(child.cmdline()) and child.pid not in known:
                    return child.pid
        time.sleep(0.01)
    raise AssertionError(f"it ended too early: {work.communicate()[1]}")


def _at_work(world: World, work: subprocess.Popen) -> int:
    """Wait for a worker process at work."""
    if found := until_at_work(world.cache, work):
        return found[0]
    raise AssertionError(f"it ended too early: {work.communicate()[1]}")


def _stop_at_work(world: World, work: subprocess.Popen) -> None:
    os.kill(_at_work(world, work), signal.SIGSTOP)


def _stop_at_start(world: World, work: subprocess.Popen) -> None:
    os.kill(_worker(work), signal.SIGSTOP)


def _stop_successor(world: World, work: subprocess.Popen) -> None:
    """Stop the process that takes the place of a killed one, before it is ready."""
    victim = _at_work(world, work)
    known = [child.pid for child in psutil.Process(work.pid).children()]
    os.kill(victim, signal.SIGKILL)
    os.kill(_worker(work, *known), signal.SIGSTOP)


@C.probes(
    "C14",
    {
        "a worker is stopped (SIGSTOP) while it works": (_stop_at_work, 300, ""),
        "a worker is stopped while it starts": (_stop_at_start, 10, "did not start"),
        "the successor of a lost worker is stopped while it starts": (_stop_successor, 300, ""),
    },
    before="the survey waits forever",
    slow=True,
)
def _(scene: Scene, stop: Callable, seconds: int, error: str) -> str:
    world = scene.world
    with world.fresh() as cache:
        forget(world, "logits", "score")
        work = world.start(str(seconds), str(_STALLED_SECONDS))
        try:
            stop(world, work)
            if not error:
                return world.finish(work)
            _, errors = work.communicate(timeout=600)
            if work.returncode != 2 or error not in errors or "Traceback" in errors:
                raise AssertionError(f"ended with {work.returncode}: {errors[-1500:]}")
            return f"one error: {errors.splitlines()[0]}"
        except subprocess.TimeoutExpired:
            raise AssertionError("it waits forever") from None
        finally:
            work.kill()
            check_nothing_left(cache)


# 16: locks and what killed processes leave


@C.probe("C16", "a report waits for another's lock", before="it says nothing")
def _(scene: Scene) -> str:
    said: list[str] = []
    folder = scene.reports / "quick"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]);"
            "lock.acquire(); print(flush=True); time.sleep(60)",
            f"{folder}.lock",
        ],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()

    def end(text: str) -> None:
        said.append(text)
        holder.kill()

    with locked(folder, "this report", end):
        holder.wait()
    (folder.parent / "quick.lock").unlink(missing_ok=True)
    return same("waiting for another process" in said[0] and "this report" in said[0], True)


@C.probe("C16", "what a killed write left, when the folder is written again", before="it stays")
def _(scene: Scene) -> str:
    folder = scene.folder / "g"
    folder.mkdir()
    part = folder / f".labels.json.{'0' * 12}.part"
    part.write_text("half")
    os.utime(part, (1e9, 1e9))
    scene.done("generate", folder, "--count", 1)
    return same(part.exists(), False)


@C.probe("C16", "what another writer has just begun is left alone")
def _(scene: Scene) -> str:
    folder = scene.folder / "g"
    folder.mkdir()
    part = folder / f".labels.json.{'0' * 12}.part"
    part.write_text("half")
    scene.done("generate", folder, "--count", 1)
    there = part.exists()
    part.unlink(missing_ok=True)
    return same(there, True)


@C.probe(
    "C16", "a private folder that a killed command left", before="it stays for good", slow=True
)
def _(scene: Scene) -> str:
    left = scene.temporary / f"lprnet-{os.getuid()}-killed"
    left.mkdir(mode=0o700)
    (left / ".held").touch()
    os.utime(left / ".held", (1e9, 1e9))
    with_child = scene.done("doctor")  # starts children, which have a private folder
    return same((with_child.status, left.exists()), (0, False))


@C.probe("C16", "a private folder of somebody else's is left alone", slow=True)
def _(scene: Scene) -> str:
    if os.geteuid():
        raise Skip("only root can give a folder away")
    left = scene.temporary / f"lprnet-{os.getuid()}-another"
    left.mkdir(mode=0o700)
    os.chown(left, 4242, 4242)
    (left / ".held").touch()
    os.utime(left / ".held", (1e9, 1e9))
    scene.done("doctor")
    there = left.exists()
    if there:
        (left / ".held").unlink()
        left.rmdir()
    return same(there, True)


@C.probe("C16", "a command that was killed while it trained", slow=True)
def _(scene: Scene) -> str:
    out = scene.folder / "m.pth"
    ended = scene.run("train", out, "--steps", 100_000, "--batch", 2, within=6)
    if ended.status is not None:
        raise AssertionError(f"it ended by itself: {ended.errors[-500:]}")
    left = [path.name for path in scene.folder.iterdir() if path.name != "m.checkpoint"]
    for lock in scene.folder.glob("*.lock"):  # of a killed process: the kernel let go of it
        left.remove(lock.name)
    same(left, [])
    for held in scene.temporary.glob("*/.held"):  # its private folder, which is old later on
        os.utime(held, (1e9, 1e9))
    scene.done("train", scene.folder / "other.pth", "--steps", 1, "--batch", 2)
    return same([*scene.temporary.iterdir()], [])


@C.probe("C16", "children of a command that ends with an error")
def _(scene: Scene) -> str:
    model = scene.model()
    scene.text("a.png", b"\x89PNG\r\n\x1a\n broken")
    return scene.refused(
        "infer", model, scene.folder / "a.png", "--backend", "simulator", says="a.png"
    )


@C.probe("C16", "twenty commands in one cache at once")
def _(scene: Scene) -> str:
    made = []

    def write(number: int) -> None:
        with locked(scene.cache / "thing", "a thing"):
            made.append(number)
            time.sleep(0.001)

    several = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for each in several:
        each.start()
    for each in several:
        each.join(30)
    return same(sorted(made), [*range(20)])


@C.probe("C16", "private folders are of one's own alone", before="the common temporary folder")
def _(scene: Scene) -> str:
    mode = private_folder().stat()
    return same((mode.st_mode & 0o777, mode.st_uid), (0o700, os.getuid()))
