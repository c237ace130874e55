"""Hostile names and contents: quotes, newlines, `..`, markup, bombs, archives that reach out."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import shutil
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from lprnet_nb.cache import adopt_artifact, pack_artifact
from lprnet_nb.datasets import fetch
from lprnet_nb.datasets.ccpd import stream_ccpd
from lprnet_nb.datasets.folder import load_images, load_plates
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import read_image
from lprnet_nb.measure.output import Output
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.model.train import TrainConfig, train
from lprnet_nb.model.weights import load_weights
from lprnet_nb.places import cache_dir
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.steps import judge_results
from lprnet_nb.work.transport import receive

from .world import Fault, World

_NAMES = (
    "it's.png",
    'double"quote.png',
    "new\nline.png",
    "$(touch owned).png",
    "`touch owned`.png",
    "; touch owned #.png",
    "-rf.png",
    " leading space.png",
    "<script>alert(1)<.script>.png",
    "&amp;.png",
    "x..png.png",
    "京A·12345.png",
    "ünï.png",
    "\u202eright to left.png",
    "%2e%2e%2f.png",
    "{{7*7}}.png",
)


def _in_folder(world: World) -> str:
    """All of them as image files: read, written as results, judged, each under its own name."""
    folder = world.folder / "names"
    folder.mkdir()
    try:
        plates = generate_plates(len(_NAMES), seed=3)
        labels = {}
        for name, image, label in zip(_NAMES, plates.images, plates.labels):
            (folder / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
            labels[name] = label
        (folder / "labels.json").write_text(json.dumps(labels), "utf8")
        read = load_plates(folder)
        out = Output(world.folder / "names-out")
        out.json("results", dict(zip(read.names, read.labels)))
        out.json("labels", labels)
        judged = judge_results(out.folder / "results.json", out.folder / "labels.json")
        found = json.loads((out.folder / "results.json").read_text("utf8"))
        if found != labels or judged["exact_match"] != 1.0:
            raise AssertionError("a name was changed on its way")
        _nothing_owned(world)
        return "same result"
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(world.folder / "names-out", ignore_errors=True)


def _nothing_owned(world: World) -> None:
    for place in (Path.cwd(), world.folder, Path(tempfile.gettempdir())):
        if (place / "owned").exists():
            raise AssertionError(f"a file name was run as a command in {place}")


def _not_utf8(world: World) -> str:
    folder = os.fsencode(world.folder / "bytes")
    os.mkdir(folder)
    try:
        image = generate_plates(1, seed=3).images[0]
        with open(folder + b"/\xff\xfe.png", "wb") as file:
            file.write(cv2.imencode(".png", image)[1].tobytes())
        return world.error(lambda: load_images(os.fsdecode(folder)), "not UTF-8")
    finally:
        shutil.rmtree(folder)


def _in_html(world: World) -> str:
    """Labels and names reach a page as text."""
    from lprnet_nb.report import html

    made = html._environment()
    page = made.from_string('<a title="{{ name }}">{{ name }}</a>').render(
        name='"><script>alert(1)</script>'
    )
    if "<script" in page or '""' in page:
        raise AssertionError(f"markup of a name reached the page: {page}")
    return "same result"


def _output_name(name: str) -> Callable[[World], str]:
    return lambda world: world.error(
        lambda: Output(world.folder / "out").json(name, {}), "cannot be a file name"
    )


def _report_name(world: World) -> str:
    from lprnet_nb.report.run import report_folder

    return world.error(lambda: report_folder("../../escaped"), "report name")


def _sent_artifact(world: World) -> str:
    """An artifact from another machine that names a file outside its folder."""
    packed = pack_artifact(world.artifact("logits", "logits.npy").parent)
    outside = cache_dir() / "escaped"
    said = world.error(
        lambda: adopt_artifact(
            cache_dir() / "artifacts" / "logits" / ("0" * 20), packed | {"../../../escaped": b"x"}
        ),
        "leads out of its folder",
    )
    if outside.exists():
        raise AssertionError("it was written outside")
    return said


def _sent_place(world: World) -> str:
    import pickle

    return world.error(
        lambda: receive(pickle.dumps(({"artifacts/../../escaped/x": {"a": b"x"}}, b""))),
        "no place in the cache",
    )


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/x.zip"
    finally:
        server.shutdown()
        server.server_close()


def _archive(members: dict[str, bytes], cut: bool = False) -> Callable[[World], str]:
    """An upstream archive of somebody else's making."""

    def run(world: World) -> str:
        place = world.folder / "archive"
        place.mkdir()
        with zipfile.ZipFile(place / "x.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        if cut:
            data = (place / "x.zip").read_bytes()
            (place / "x.zip").write_bytes(data[: len(data) // 2])
        before = os.environ.get("LPRNET_DATA"), os.environ.pop("LPRNET_MIRROR", None)
        os.environ["LPRNET_DATA"] = str(place / "data")
        try:
            with _served(place) as url:
                said = world.error(
                    lambda: fetch.fetch_published(url=url, progress=False),
                    "x.zip" if cut or "a/weights/x" not in members else "SHA-256",
                )
            escaped = list(place.parent.rglob("evil*"))
            if escaped:
                raise AssertionError(f"written outside: {escaped}")
            return said
        finally:
            for key, value in zip(("LPRNET_DATA", "LPRNET_MIRROR"), before):
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value
            shutil.rmtree(place)

    return run


def _png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def _image(data: bytes) -> Callable[[World], str]:
    def run(world: World) -> str:
        import resource

        path = world.folder / "image.png"
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = world.error(lambda: read_image(path), "image.png")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > 256:
            raise AssertionError(f"refusing it took {grown:.0f} MiB")
        return said

    return run


def _ccpd(name: str, contains: str) -> Callable[[World], str]:
    def run(world: World) -> str:
        folder = world.folder / "ccpd"
        folder.mkdir()
        try:
            (folder / name).write_bytes(cv2.imencode(".jpg", np.zeros((200, 300, 3), np.uint8))[1])
            return world.error(lambda: list(stream_ccpd(folder)), contains)
        finally:
            shutil.rmtree(folder)

    return run


class _Evil:
    """Runs a command where a reader executes what a pickle says."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def _pickled_code(read: Callable[[Path], object], suffix: str) -> Callable[[World], str]:
    def run(world: World) -> str:
        path, mark = world.folder / f"evil-code{suffix}", world.folder / "executed"
        torch.save({"container.0.weight": _Evil(mark), "config": _Evil(mark)}, path)
        try:
            said = world.error(lambda: read(path), path.name)
        finally:
            path.unlink()
        if mark.exists():
            raise AssertionError("code in the file was executed")
        return said

    return run


def _train_on(checkpoint: Path) -> None:
    train(TrainConfig(checkpoint.with_suffix(".pth"), checkpoint, steps=1, batch=2))


def _foreign_bmodel(world: World) -> str:
    path = world.folder / "foreign.bmodel"
    path.write_bytes(world.artifact("bmodel", "lprnet.bmodel").read_bytes() + bytes(8))
    return world.error(lambda: open_engine(path, "simulator"), "--trust")


def _foreign_trace(world: World) -> str:
    path = world.folder / "foreign.pt"
    path.write_bytes(world.artifact("trace", "LPRNet_model_trace.pt").read_bytes() + bytes(8))
    model = trace_model(load_own_weights())
    return world.error(lambda: open_engine(dataclasses.replace(model, path=path)), "--trust")


_CCPD = "025-95_113-{box}-{vertices}-{plate}-37-15.jpg"


def faults() -> list[Fault]:
    """Names, archives and images made to do harm."""
    good = {
        "box": "154&83_250&173",
        "vertices": "250&173_154&173_154&83_250&83",
        "plate": "0_0_22_27_27_33_16",
    }
    return [
        Fault("names: 16 hostile image names through results and judgement", _in_folder),
        Fault("names: bytes that are not UTF-8", _not_utf8),
        Fault("names: markup into a page", _in_html),
        Fault("names: figure called ../x", _output_name("../x")),
        Fault("names: result with a newline", _output_name("a\nb")),
        Fault("names: report called ../../escaped", _report_name),
        Fault("names: artifact sent with a file ../../../escaped", _sent_artifact),
        Fault("names: result sent from a place outside the cache", _sent_place),
        Fault(
            "names: CCPD vertices outside the scene",
            _ccpd(
                _CCPD.format(**good | {"vertices": "999999&173_154&173_154&83_999999&83"}),
                "lie outside",
            ),
        ),
        Fault(
            "names: CCPD plate of characters that do not exist",
            _ccpd(_CCPD.format(**good | {"plate": "99_0_22_27_27_33_16"}), "too large"),
        ),
        Fault(
            "archive: members that lead outside",
            _archive(
                {
                    "../../evil": b"x",
                    f"{tempfile.gettempdir()}/evil-absolute": b"x",
                    "a/../../evil2": b"x",
                }
            ),
        ),
        Fault(
            "archive: cut in half",
            _archive({"a/weights/Final_LPRNet_model.pth": bytes(5000)}, cut=True),
        ),
        Fault(
            "archive: the right names, other contents",
            _archive(
                {
                    "a/weights/x": b"x",
                    **{
                        f"a/data/{name}": b"x" for name in fetch.registry() if name != fetch.WEIGHTS
                    },
                    f"a/weights/{fetch.WEIGHTS}": b"x",
                }
            ),
        ),
        Fault("trust: weights with code in them", _pickled_code(load_weights, ".pth")),
        Fault("trust: checkpoint with code in it", _pickled_code(_train_on, ".checkpoint")),
        Fault("trust: BModel from elsewhere", _foreign_bmodel),
        Fault("trust: TorchScript from elsewhere", _foreign_trace),
        Fault("image: 900 million pixels in 100 bytes", _image(_png(30_000, 30_000))),
        Fault("image: 4 billion pixels in 100 bytes", _image(_png(65_000, 65_000))),
        Fault("image: empty file", _image(b"")),
        Fault("image: text", _image(b"<html>404</html>")),
    ]
