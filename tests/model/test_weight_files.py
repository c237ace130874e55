"""Weights as people save them: taken with the right values, or refused in one sentence."""

import argparse
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lprnet_nb.datasets import fetch
from lprnet_nb.errors import DataError
from lprnet_nb.model.lprnet.layers import LPRNet, PublishedLPRNet
from lprnet_nb.model.own import FILE
from lprnet_nb.model.weights import PUBLISHED_DIGEST, Weights, load_weights

# What no sentence of ours holds: torch's own words, and the beginning of a terminal's commands.
FOREIGN = re.compile(r"Weights only load|weights_only=|safe_globals|Unpickler|Error|\x1b|\n")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = LPRNet(68).eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return network


@pytest.fixture(scope="module")
def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def forward(self, x):
        return self.module(x)


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def optimizer(network):
    adam = torch.optim.Adam(LPRNet(68).parameters())
    for parameter in adam.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    return adam.state_dict()


SAVED = {
    "plain": lambda s, n: s,
    "DataParallel": lambda s, n: prefixed(s, "module."),
    "torch.compile of DataParallel": lambda s, n: prefixed(s, "_orig_mod.module."),
    "Lightning": lambda s, n: {
        "state_dict": prefixed(s, "model."),
        "epoch": 3,
        "loops": {"a": {}},
        "optimizer_states": [optimizer(n)],
    },
    "state_dict": lambda s, n: {"state_dict": s, "epoch": torch.tensor(3)},
    "model": lambda s, n: {"model": s, "optimizer": optimizer(n), "loss": 0.25},
    "net_state_dict": lambda s, n: {"net_state_dict": s, "epoch": 3},
    "model_state_dict": lambda s, n: {"model_state_dict": s},
    "a name of one's own": lambda s, n: {"checkpoint": {"lprnet": prefixed(s, "module.")}},
    "twice the same": lambda s, n: {"model": s, "best": dict(s)},
    "a list": lambda s, n: [s, 7],
    "numbers beside": lambda s, n: {**s, "epoch": 3, "note": "best"},
    "arguments beside": lambda s, n: {
        "net": s,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.9),
        "when": Path("run"),
    },
    "parameters": lambda s, n: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
    },
    "sparse": lambda s, n: {k: v.to_sparse() if v.ndim else v for k, v in s.items()},
    "float64": lambda s, n: {k: v.double() for k, v in s.items()},
    "another order in memory": lambda s, n: {
        k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in s.items()
    },
    "torch 0.4, no counters": lambda s, n: {k: v for k, v in s.items() if v.ndim},
    "reversed": lambda s, n: dict(reversed(s.items())),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_checkpoints_give_the_network_in_them(state, network, how, zipped, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(SAVED[how](state, network), path, _use_new_zipfile_serialization=zipped)
    loaded = load_weights(path)
    assert loaded.name == "mine" and loaded.digest == Weights("", state).digest
    assert all(
        value.dtype == state[name].dtype and value.is_contiguous() and type(value) is torch.Tensor
        for name, value in loaded.state.items()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_are_widened(state, dtype, tmp_path):
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(prefixed(narrow, "module."), tmp_path / "w.pth")
    wide = {k: v.float() if v.is_floating_point() else v for k, v in narrow.items()}
    assert load_weights(tmp_path / "w.pth").digest == Weights("", wide).digest


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_whatever_the_file_is_called(state, prefix, name, tmp_path):
    safetensors.torch.save_file(prefixed(state, prefix), tmp_path / name)
    assert load_weights(tmp_path / name).digest == Weights("", state).digest


class Parts(nn.Module):
    """What `torch.jit.script` takes of the network: it reads the code, whatever that computes."""

    def __init__(self, network):
        super().__init__()
        self.backbone, self.container = network.backbone, network.container

    def forward(self, x):
        return self.container(self.backbone(x))


@pytest.mark.parametrize("how", ["traced", "of the published form", "wrapped", "scripted"])
def test_torchscript_gives_its_parameters_and_is_not_run(
    state, network, how, tmp_path, monkeypatch
):
    published = PublishedLPRNet(68).eval()
    published.load_state_dict(state)
    if how == "scripted":
        script = torch.jit.script(Parts(published))
    else:
        chosen = {"traced": network, "wrapped": Wrapper(network)}.get(how, published)
        script = torch.jit.trace(chosen, torch.zeros(1, 3, 24, 94))
    script.save(str(tmp_path / "w.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the code was loaded"))
    assert load_weights(tmp_path / "w.pt").digest == Weights("", state).digest


def saved(content, **options):
    return lambda path: torch.save(content, path, **options)


def narrow(classes=68, **changes):
    state = {k: v.clone() for k, v in LPRNet(classes).state_dict().items()}
    return state | changes


def traced_frozen(path):
    torch.jit.freeze(torch.jit.trace(LPRNet(68).eval(), torch.zeros(1, 3, 24, 94))).save(str(path))


def cut_off(path):
    torch.save(narrow(), path)
    path.write_bytes(path.read_bytes()[:-70_000])


def altered(path):
    torch.save(narrow(), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut_off_safetensors(path):
    safetensors.torch.save_file(narrow(), path)
    path.write_bytes(path.read_bytes()[:-5])


def torn_older(path):
    torch.save(narrow(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-70_000])


class HostileName:
    def __reduce__(self):
        return (print, ("ran",))


def hostile_name(path):
    """A class whose name holds a terminal's command."""
    torch.save({"x": HostileName()}, path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw.replace(b"print", b"\x1b[31m"))


HALVED = narrow(**{"backbone.1.running_var": torch.full((64,), 1e6).half()})
REFUSED = {
    "missing": (None, r"/no\.pth cannot be read: No such file; /.*no\.pth does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "empty, damaged, cut off"),
    "text": (lambda path: path.write_bytes(b"hello"), "empty, damaged, cut off"),
    "cut off": (cut_off, "empty, damaged, cut off"),
    "altered": (altered, "empty, damaged, cut off"),
    "cut off safetensors": (cut_off_safetensors, "empty, damaged, cut off"),
    "cut off older": (torn_older, "empty, damaged, cut off"),
    "numpy": (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "empty, damaged, cut off"),
    "Git LFS": (
        lambda path: path.write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "git lfs pull",
    ),
    "web page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "ONNX": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "is an ONNX graph"),
    "whole network": (saved(LPRNet(68)), r"pickled objects \(lprnet_nb\.model.*Save `torch"),
    "whole network, older": (
        saved(LPRNet(68), _use_new_zipfile_serialization=False),
        r"pickled objects \(lprnet_nb\.model.*Save `torch",
    ),
    "whole network in a checkpoint": (
        # A step of an optimizer, which brings all of torch's compiler, only when the test runs.
        lambda path: torch.save({"model": LPRNet(68), "optimizer": optimizer(None)}, path),
        r"pickled objects \(lprnet_nb\.model",
    ),
    "a name with commands in it": (hostile_name, r"pickled objects \(__builtin__\.\?\?31m\)"),
    "list": (saved([1, 2]), "are not a state dict of tensors"),
    "number": (saved(3), "are not a state dict of tensors"),
    "two networks": (
        saved({"model": narrow(), "ema": {"module": narrow()}}),
        r"several networks: model, ema\.module\.",
    ),
    "another network": (
        saved({"conv1.weight": torch.zeros(2)}),
        r"none of its 1 tensors \(conv1\.weight, …\) is a layer",
    ),
    "another fork's layer": (
        saved(narrow(**{"stn.fc.weight": torch.zeros(6, 32)})),
        r"stn\.fc\.weight is not among its layers: another fork's layer",
    ),
    "a part": (
        saved({k: v for k, v in narrow().items() if "21" not in k}),
        r"backbone\.21\.weight is missing \(and 3 more\)",
    ),
    "another width": (
        saved(narrow(**{"backbone.0.weight": torch.zeros(32, 3, 3, 3)})),
        "is 32x3x3x3, expected 64x3x3x3: a network of another width",
    ),
    "gray": (saved(narrow(**{"backbone.0.weight": torch.zeros(64, 1, 3, 3)})), "such as gray"),
    "another kernel": (
        saved(narrow(**{"backbone.16.weight": torch.zeros(256, 64, 1, 5)})),
        "is 256x64x1x5, expected 256x64x1x4: another fork's layer",
    ),
    "class layers that differ": (
        saved(narrow(**{"backbone.20.bias": torch.zeros(37)})),
        "backbone.20.bias is 37, expected 68: another class count",
    ),
    "other classes": (saved(narrow(37)), "have 37 classes, the class list 68. Name the class list"),
    "NaN": (
        saved(narrow(**{"container.0.bias": torch.full((68,), float("nan"))})),
        r"infinite values or NaN, the first in container\.0\.bias",
    ),
    "beyond fp16": (saved(HALVED), r"the first in backbone\.1\.running_var.*range of fp16"),
    "whole numbers": (
        saved(narrow(**{"container.0.bias": torch.zeros(68, dtype=torch.int8)})),
        r"container\.0\.bias is int8: quantized",
    ),
    "complex": (saved(narrow(**{"container.0.bias": torch.zeros(68) * 1j})), "is complex"),
    "no values": (saved({k: v.to("meta") for k, v in narrow().items()}), "without values"),
    "frozen TorchScript": (traced_frozen, "are not a state dict of tensors"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_is_refused_in_one_sentence(what, tmp_path):
    write, message = REFUSED[what]
    path = tmp_path / "no.pth"
    if write:
        write(path)
    with pytest.raises(DataError, match=message) as caught:
        load_weights(path)
    text = str(caught.value).replace(str(tmp_path), "")
    assert not FOREIGN.search(text) and len(text) < 400, text
    assert text.startswith("weights /no.pth") and re.search(r"[a-z0-9)]\.( [A-Z]| `|$)", text)


def test_what_is_called_published_is_so_by_its_values(weights, state, tmp_path):
    assert weights.digest == PUBLISHED_DIGEST
    torch.save({"state_dict": prefixed(weights.state, "module.")}, tmp_path / "copy.pth")
    assert load_weights(tmp_path / "copy.pth").name == "published"
    (tmp_path / "other.pth").write_bytes(fetch.weights_path().read_bytes())
    assert load_weights(tmp_path / "other.pth").name == "published"
    for name in ("published", "generated", "auto"):
        torch.save(state, tmp_path / f"{name}.pth")
        assert load_weights(tmp_path / f"{name}.pth").name == f"{name}.pth"
    torch.save(state, tmp_path / FILE)
    assert load_weights(tmp_path / FILE).name == "lprnet_generated"
