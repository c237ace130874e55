"""What is carried here from elsewhere: networks of one's own, kits, and what boxes measured."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lprnet_nb.measure.box import measured_logits, read_results
from lprnet_nb.model.network_file import read_network
from lprnet_nb.proof import ssh
from lprnet_nb.proof.kit import kit_digest, read_kit
from lprnet_nb.toolchain.environment import ENVIRONMENT_VARIABLE, find_compiler

from .hangs import endless, fifo, sparse
from .probes import Table
from .scene import Scene, same

CARRIED = Table()

# Networks of one's own

_TOML = """[input]
height = 8
width = 16
[output]
layout = "nct"
classes = "ab-"
blank = 2
"""
_WEIGHT = np.random.default_rng(0).standard_normal((3, 3, 8, 1)).astype(np.float32)


def _network(scene: Scene, *, outside: dict[str, str] | None = None, random: bool = False) -> Path:
    """An ONNX of one convolution, its weights in a file beside it, or drawing random numbers."""
    weight = numpy_helper.from_array(_WEIGHT, "weight")
    if outside is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in outside.items():
            weight.external_data.add(key=key, value=value)
    axis = numpy_helper.from_array(np.array([2], np.int64), "axis")
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["rows"]),
        helper.make_node("Squeeze", ["rows", "axis"], ["steps"]),
        helper.make_node("RandomNormalLike", ["steps"], ["noise"]),
        helper.make_node("Add", ["steps", "noise" if random else "steps"], ["y"]),
    ]
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(nodes, "net", *ends, [weight, axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    scene.text("net.toml", _TOML)
    return scene.text("net.onnx", model.SerializeToString())


@CARRIED.probes(
    "E19",
    {
        "an offset that is no number": ({"offset": "abc"}, "abc"),
        "a length that is no number": ({"length": "abc"}, "abc"),
        "an offset before the file": ({"offset": "-4"}, "-4"),
        "a length beyond the file": ({"length": str(1 << 50)}, "exceeds"),
        "a name of 300 letters": ({"location": "x" * 300}, "too long"),
        "no name": ({"location": ""}, "''"),
    },
    before="a traceback",
)
def _(scene: Scene, change: dict[str, str], says: str) -> str:
    scene.text("net.bin", _WEIGHT.tobytes())
    path = _network(scene, outside={"location": "net.bin", **change})
    return scene.world.error(lambda: read_network(path), says)


@CARRIED.probes(
    "B6",
    {
        "weights of an ONNX above its folder": ("../secret.bin",),
        "weights of an ONNX by an absolute path": ("/",),
        "weights of an ONNX that are a link": ("link.bin",),
    },
)
def _(scene: Scene, location: str) -> str:
    secret = scene.root / "secret.bin"
    secret.write_bytes(_WEIGHT.tobytes())
    (scene.folder / "link.bin").symlink_to(secret)
    path = _network(scene, outside={"location": str(secret) if location == "/" else location})
    return scene.world.error(lambda: read_network(path), "external weights cannot be read")


@CARRIED.probes(
    "C15",
    {
        "a FIFO as weights of an ONNX": (fifo,),
        "/dev/zero as weights of an ONNX": (endless,),
        "a sparse file of 1 TB as weights of an ONNX": (sparse,),
    },
    before="takes all memory, where it is sparse",
)
def _(scene: Scene, trap: Callable[[Path], None]) -> str:
    trap(scene.folder / "net.bin")
    path = _network(scene, outside={"location": "net.bin"})
    return scene.refused("trace", "--network", path, says="net.bin")


@CARRIED.probes(
    "E19",
    {
        "a network's TOML of 100,000 brackets": ("a = " + "[" * 100_000,),
        "a network's TOML with a number of 5,000 digits": ("a = " + "9" * 5_000,),
    },
    before="a traceback",
)
def _(scene: Scene, text: str) -> str:
    path = _network(scene)
    scene.text("net.toml", text)
    return scene.world.error(lambda: read_network(path), "net.toml is not TOML")


@CARRIED.probe(
    "B9", "a network that draws random numbers", before="its readings differed from call to call"
)
def _(scene: Scene) -> str:
    same(read_network(_network(scene)).name, "net")  # without them it is one
    path = _network(scene, random=True)
    return scene.world.error(lambda: read_network(path), "differs from call to call")


_TORCH = """import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Conv2d(3, 3, (8, 1))

    def forward(self, x):
        return self.rows(x).squeeze(2)

def network():
    torch.manual_seed(0)
    made = Net()
    {more}
    return made
"""


@CARRIED.probe(
    "E19",
    "a network whose weights are NaN",
    before="said that they differ from call to call",
    slow=True,
)
def _(scene: Scene) -> str:
    scene.text("net.toml", _TOML)
    more = "made.rows.weight.data.fill_(float('nan'))"
    path = scene.text("net.py", _TORCH.replace("{more}", more))
    return scene.world.error(lambda: read_network(path), "holds infinite values or NaN")


@CARRIED.probe("A2", "a network of one's own among modules of a stranger", slow=True)
def _(scene: Scene) -> str:
    scene.hostile()
    scene.text("net.toml", _TOML)
    path = scene.text("net.py", _TORCH.replace("{more}", ""))
    ended = scene.run("network", "check", path, "--no-compiler")
    return same((ended.status, "Traceback" in ended.errors), (0, False))


# Kits and boxes


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _results(place: str = "0", raw: bytes = b"", kit: str = "", **changes: Any) -> bytes:
    """Results of a box that read one plate, whose logits differ; sealed as ``run.py`` does."""
    nothing = dict.fromkeys(("board", "chip", "target", "system", "processors", "memory_mb", "sdk"))
    nothing |= dict.fromkeys(("driver", "opencv", "sail", "sail_file", "bmrt_test"))
    said = dict.fromkeys(("kernel", "machine", "host", "python", "numpy", "sail_module"), "x")
    box = nothing | said | {"devices": 1, "runtime": {}, "bmcv": False}
    program = {
        **{"passed": True, "detail": "", "seconds": None, "temperature": {}},
        **{"digests": [_sha256(raw)], "different": {place: base64.b64encode(raw).decode()}},
        **changes,
    }
    digest = _sha256(b"x")
    model = {"id": "m", "sha256": digest, "expected": digest, "backend": "simulator"}
    values = {
        **{"format": 1, "kit": kit or digest, "chip": "BM1688", "settings": {}, "checks": []},
        "box": box | {"temperature": {}, "clock_hz": {}},
        **{"plates": [digest], "models": [model | {"programs": {"plates": program}}]},
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return json.dumps(values | {"seal": _sha256(text.encode("ascii"))}).encode()


_LOGITS = np.zeros((1, 68, 18), np.float32)
_SPREAD = {"median": 1.0, "least": 1.0, "calls": 1, "images_per_call": 1}


@CARRIED.probes(
    "E19",
    {
        "results of a box with logits of three bytes": ({"raw": b"abc"}, "3 bytes of logits"),
        "results of a box with logits of another size": ({"raw": bytes(20)}, "20 bytes of logits"),
        "results of a box of a plate before the first": (
            {"place": "-1", "raw": _LOGITS.tobytes()},
            "plate -1",
        ),
        "results of a box with times that are no number": (
            {"times_ms": {"runtime": _SPREAD | {"quartiles": [1.0, 1.0], "most": float("nan")}}},
            "finite number",
        ),
    },
    before="a traceback, or taken",
)
def _(scene: Scene, change: dict[str, Any], says: str) -> str:
    path = scene.text("results.json", _results(**change))

    def read() -> np.ndarray:
        return measured_logits(read_results(path).models[0], _LOGITS)

    return scene.world.error(read, says)


def _kit(scene: Scene, files: dict[str, str]) -> Path:
    """A kit of a model that lists such files."""
    folder = scene.folder / "kit"
    folder.mkdir()
    digest = _sha256(b"x")
    expected = {"file": "e", "sha256": digest, "backend": "simulator", "tolerance": 0.0}
    model = dict.fromkeys(("record", "strategy", "predicted_latency_ms")) | {
        **{"id": "m", "file": "m", "sha256": digest, "precision": "fp32", "batch": 1, "cores": 1},
        **{"batch_mean": "image", "graph": "g", "stages": [], "expected": expected},
    }
    values = {
        **{"format": 1, "made": {}, "chip": "BM1688", "dataset": "d", "classes": ["a", "-"]},
        "preprocessing": {"mean": 1.0, "scale": 1.0, "order": "bgr", "size": [24, 94]},
        **{"blank": 1, "models": [model], "files": files},
        "plates": [{"name": "p", "file": "p", "sha256": digest, "label": None}],
    }
    (folder / "kit.json").write_text(json.dumps(values), "utf8")
    return folder


@CARRIED.probes(
    "E19",
    {
        "a kit that names a file of 300 letters": ("x" * 300, "too long"),
        "a kit that names a file with a null character": ("a\0b", "null"),
        "a kit that names a file outside": ("../secret", "leads out of the kit"),
    },
    before="a traceback",
)
def _(scene: Scene, name: str, says: str) -> str:
    scene.text("secret", "x")
    folder = _kit(scene, {name: _sha256(b"x")})
    return scene.world.error(lambda: read_kit(folder), says)


def _on_box(scene: Scene, sent: bytes) -> Callable[[], Path]:
    """A kit with results of an earlier run, and a box that sends others."""
    folder = _kit(scene, {})
    (folder / "results.json").write_text("earlier", "utf8")
    scene.text("sent", sent)
    box = scene.text(
        "box", f"#!/bin/sh\ncase \"$*\" in *head*results.json*) cat '{scene.folder}/sent' ;; esac\n"
    )
    box.chmod(0o755)
    return lambda: ssh.run_over_ssh("box", folder, ssh=str(box), report=lambda line: None)


@CARRIED.probes(
    "D17",
    {
        "a box that sends other things than results": (b"garbage", "other things than results"),
        "a box that sends results of another kit": (_results(raw=b""), "sent results of the kit"),
    },
    before="the results of an earlier run were replaced",
)
def _(scene: Scene, sent: bytes, says: str) -> str:
    ended = scene.world.error(_on_box(scene, sent), says)
    same((scene.folder / "kit" / "results.json").read_text("utf8"), "earlier")
    return ended


@CARRIED.probe("D17", "a box that sends results of the kit")
def _(scene: Scene) -> str:
    run = _on_box(scene, b"")
    digest = kit_digest(scene.folder / "kit")
    with patch(
        f"{__name__}._sha256", lambda raw, real=_sha256: digest if raw == b"x" else real(raw)
    ):
        sent = _results()
    scene.text("sent", sent)
    return same(run().read_bytes(), sent)


@CARRIED.probes(
    "E19",
    {
        "an ssh command with an open quote": ({"ssh": "ssh 'x"}, "--ssh"),
        "an ssh command of nothing": ({"ssh": " "}, "--ssh is empty"),
        "an ssh command that is no program": ({"ssh": "kit/kit.json"}, "cannot be started"),
        "a Python on the box with an open quote": ({"python": "python3 'x"}, "--python"),
    },
    before="a traceback",
)
def _(scene: Scene, options: dict[str, str], says: str) -> str:
    folder = _kit(scene, {})
    with_place = {name: text.replace("kit/", f"{folder}/") for name, text in options.items()}
    return scene.world.error(lambda: ssh.run_over_ssh("box", folder, **with_place), says)


# Installations of the compiler


@CARRIED.probe(
    "E19",
    "a compiler in a folder with a space in its name",
    before="said that it is no Python environment with TPU-MLIR",
)
def _(scene: Scene) -> str:
    prefix = scene.folder / "my tools"
    (prefix / "bin").mkdir(parents=True)
    package = prefix / "tpu_mlir" / "__init__.py"
    python = prefix / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho 1.30.2\necho '{package}'\n")
    python.chmod(0o755)
    with patch.dict(os.environ, {ENVIRONMENT_VARIABLE: str(prefix)}):
        return same(find_compiler().package, package.parent)
