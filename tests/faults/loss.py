"""D. Loss: what was there before is gone, cut or altered."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lprnet_nb.datasets.lmdb import write_lmdb
from lprnet_nb.files import atomic_write

from .probes import Table
from .scene import READ, Scene, read_output, same
from .storage import small_disk
from .world import Skip

D = Table()


def _read_into(scene: Scene, output: Path, **options) -> None:
    scene.done(*READ, scene.model(), scene.picture(), "--output", output, **options)


def _expected(scene: Scene) -> dict[str, str]:
    scene.stage.warm()
    return json.loads(scene.stage.read)


@D.probe("D17", "--output to a FIFO", before="it became a regular file")
def _(scene: Scene) -> str:
    path, read = scene.folder / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    _read_into(scene, path)
    reader.join(30)
    return same((json.loads(read[0]), path.is_fifo()), (_expected(scene), True))


@D.probe("D17", "--output to a device", before="it became a regular file")
def _(scene: Scene) -> str:
    path = scene.folder / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"x")
    except OSError as error:
        raise Skip(f"no device can be made here: {error}") from error
    _read_into(scene, path)
    return same(path.is_char_device(), True)


@D.probe("D17", "--output to a link", before="the link became a regular file")
def _(scene: Scene) -> str:
    target, link = scene.text("target.json", "old"), scene.folder / "link.json"
    link.symlink_to(target.name)
    _read_into(scene, link)
    return same((link.is_symlink(), json.loads(target.read_text())), (True, _expected(scene)))


@D.probe("D17", "--output to a link that leads nowhere yet", before="it became a regular file")
def _(scene: Scene) -> str:
    target, link = scene.folder / "target.json", scene.folder / "link.json"
    link.symlink_to(target.name)
    _read_into(scene, link)
    return same((link.is_symlink(), json.loads(target.read_text())), (True, _expected(scene)))


@D.probe("D17", "--output to standard output", before="it was replaced")
def _(scene: Scene) -> str:
    ended = scene.done(*READ, scene.model(), scene.picture(), "--output", "/dev/stdout")
    text = read_output(ended).replace("/dev/stdout\n", "")
    return same(json.loads(text), _expected(scene))


@D.probe("D17", "--output over a file of mode 0600", before="mode 0644")
def _(scene: Scene) -> str:
    path = scene.text("out.json", "old")
    path.chmod(0o600)
    _read_into(scene, path)
    return same(stat.S_IMODE(path.stat().st_mode), 0o600)


@D.probe("D17", "--output of a new file under any umask", before="mode 0644", everywhere=True)
def _(scene: Scene) -> str:
    path = scene.folder / "out.json"
    _read_into(scene, path)
    return same(stat.S_IMODE(path.stat().st_mode), 0o666 & ~scene.context.umask)


@D.probe("D17", "--output over a hard link of another file")
def _(scene: Scene) -> str:
    kept = scene.text("kept.json", "kept")
    os.link(kept, scene.folder / "out.json")
    _read_into(scene, scene.folder / "out.json")
    return same(kept.read_text(), "kept")


@D.probe("D17", "--output over another user's file", before="it was root's afterwards")
def _(scene: Scene) -> str:
    if os.geteuid():
        raise Skip("only root can give a file away")
    path = scene.text("out.json", "old")
    os.chown(path, 4242, 4242)
    _read_into(scene, path)
    return same((path.stat().st_uid, path.stat().st_gid), (4242, 4242))


@D.probes(
    "D17",
    {
        "--output to a folder": (lambda scene: scene.folder, "mine"),
        "--output below a file": (lambda scene: scene.text("file", "x") / "out.json", "out.json"),
        "--output with a name of 300 letters": (lambda scene: scene.folder / ("x" * 300), "xxx"),
        "--output to a full device": (lambda scene: Path("/dev/full"), "/dev/full"),
    },
    before="a traceback",
)
def _(scene: Scene, path: Callable[[Scene], Path], says: str) -> str:
    command = (*READ, scene.model(), scene.picture(), "--output", str(path(scene)))
    return scene.refused(*command, says=says)


@D.probe("D17", "a picture that is broken, and an old output")
def _(scene: Scene) -> str:
    out = scene.text("out.json", "old")
    broken = scene.text("b.png", b"\x89PNG\r\n\x1a\n broken")
    said = scene.refused(*READ, scene.model(), broken, "--output", out, says="b.png")
    same(out.read_text(), "old")
    return said


@D.probe("D17", "an old output on a disk that is full")
def _(scene: Scene) -> str:
    with small_disk(scene.folder / "small", 1 << 14) as small:
        atomic_write(small / "out.json", "old")
        with contextlib.suppress(OSError), open(small / "filler", "wb") as file:
            while True:
                file.write(bytes(512))
                file.flush()
        command = (*READ, scene.model(), scene.picture(), "--output", small / "out.json")
        said = scene.refused(*command, says=("out.json", "space"))
        same((small / "out.json").read_text(), "old")
        return said


# 18


@D.probe(
    "D18",
    "generate into a folder of one's own",
    before="its labels were overwritten",
)
def _(scene: Scene) -> str:
    plates = scene.plates()
    mine = (plates / "labels.json").read_bytes()
    ended = scene.run("generate", plates, "--count", 2, "--seed", 9)
    if (plates / "labels.json").read_bytes() != mine:
        raise AssertionError("its labels were overwritten")
    return f"one error: {scene.plain(ended.errors)}" if ended.status else "same result"


@D.probe(
    "D18",
    "train over a foreign file",
    before="it was overwritten",
)
def _(scene: Scene) -> str:
    out = scene.text("thesis.pth", "my thesis")
    ended = scene.run("train", out, "--steps", 1, "--batch", 2)
    same(out.read_text(errors="replace"), "my thesis")
    return f"one error: {scene.plain(ended.errors)}"


@D.probe(
    "D18",
    "train into a folder",
    before="it failed after all steps",
)
def _(scene: Scene) -> str:
    out = scene.folder / "out"
    out.mkdir()
    said = scene.refused("train", out, "--steps", 1_000_000, "--batch", 2, says="out")
    return said


@D.probe(
    "D18",
    "train into a folder that cannot be written",
    before="it failed after all steps",
)
def _(scene: Scene) -> str:
    scene.text("file", "x")
    out = scene.folder / "file" / "m.pth"
    return scene.refused("train", out, "--steps", 1_000_000, "--batch", 2, says="m.pth")


@D.probe("D18", "generate twice into one folder")
def _(scene: Scene) -> str:
    command = ("generate", scene.folder / "g", "--count", 2)
    files = []
    for _ in range(2):
        scene.done(*command)
        files.append({path.name: path.read_bytes() for path in (scene.folder / "g").iterdir()})
    return same(files[0], files[1])


@D.probe("D18", "generate onto a full disk")
def _(scene: Scene) -> str:
    with small_disk(scene.folder / "small", 1 << 14) as small:
        return scene.refused("generate", small / "g", "--count", 30, says="space")


@D.probe("D18", "lmdb beside a data set of somebody else's")
def _(scene: Scene) -> str:
    plates, store = scene.plates(), scene.folder / "lmdb"
    write_lmdb([np.ones((1, 3, 2, 2), np.float32)], store)
    before = (store / "data.mdb").read_bytes()
    command = ("lmdb", "--imageset-rootfolder", plates, "--imageset-lmdbfolder", store)
    said = scene.refused(*command, says="lmdb")
    same((store / "data.mdb").read_bytes() == before, True)
    return said


@D.probe("D18", "lmdb where data.mdb is a file of something else")
def _(scene: Scene) -> str:
    plates, store = scene.plates(), scene.folder / "lmdb"
    store.mkdir()
    (store / "data.mdb").write_bytes(b"my own data base" * 1000)
    command = ("lmdb", "--imageset-rootfolder", plates, "--imageset-lmdbfolder", store)
    said = scene.refused(*command, says="lmdb")
    same((store / "data.mdb").read_bytes(), b"my own data base" * 1000)
    return said


@D.probe("D18", "a kit into a folder that is not empty")
def _(scene: Scene) -> str:
    kit = scene.folder / "kit"
    kit.mkdir()
    (kit / "mine").write_text("mine")
    said = scene.refused("kit", "BM1688", "--output", kit, says="kit")
    same((kit / "mine").read_text(), "mine")
    return said


@D.probe("D18", "html in a folder that is no report")
def _(scene: Scene) -> str:
    (scene.folder / "index.html").write_text("my home page")
    said = scene.refused("html", scene.folder, says="metrics.json is missing")
    same((scene.folder / "index.html").read_text(), "my home page")
    return said


@D.probe("D18", "a label file is read, whatever becomes of it", everywhere=True)
def _(scene: Scene) -> str:
    plates = scene.plates()
    before = {path.name: path.read_bytes() for path in plates.iterdir()}
    scene.done("evaluate", plates / "labels.json", plates)
    return same({path.name: path.read_bytes() for path in plates.iterdir()}, before)


@D.probe("D18", "an altered artifact is kept aside when it is made again", slow=True)
def _(scene: Scene) -> str:
    scene.model()
    logits = next((scene.cache / "artifacts" / "logits").glob("*/logits.npy"))
    logits.write_bytes(b"mine")
    with scene.world._using(scene.cache):
        ended = scene.world.result()
    aside = [*(scene.cache / "artifacts" / "logits").glob(".altered-*/*/logits.npy")]
    same([path.read_bytes() for path in aside], [b"mine"])
    return ended
