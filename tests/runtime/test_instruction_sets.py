"""The packaged models' logits on every instruction set and C compiler here: the simulator's."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from elsewhere import Elsewhere
from instruction_sets import TARGETS

from lprnet_nb.datasets.images import preprocess
from lprnet_nb.runtime.emulator import Emulator, native
from lprnet_nb.runtime.inference import read_shards
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.packaged import packaged, packaged_index, simulated, simulated_plates

ZIG = f"""#!{sys.executable}
import os, sys
given = sys.argv[1:]
if "-E" not in given:
    given = [a.replace("-", "_").replace("_march", "-march") if "-march" in a else a for a in given]
os.execv(sys.executable, [sys.executable, "-m", "ziglang", "cc", *given])
"""  # to compile, its names of processors have no dashes
MODELS = sorted(model["folder"] for model in packaged_index()["models"])


@pytest.fixture(params=["gcc", "clang"])
def cc(request, tmp_path, monkeypatch) -> str:
    """A C compiler, the only one on the PATH; clang also from the package ziglang."""
    program = shutil.which(request.param)
    if program is None and request.param == "clang" and importlib.util.find_spec("ziglang"):
        program = str(tmp_path / "zig")
        Path(program).write_text(ZIG)
        Path(program).chmod(0o755)
    if program is None:
        pytest.skip(f"no {request.param} here")
    (tmp_path / "bin").mkdir()
    for name in ("cc", "as", "ld"):
        found = program if name == "cc" else shutil.which(name)
        if found:
            (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "zig-cache"))
    return request.param


@pytest.mark.parametrize("target", TARGETS)
def test_logits_are_the_simulators(cc, target, monkeypatch):
    build = native.library.__wrapped__  # not the one that is built for this machine already
    built = build(target)
    monkeypatch.setattr(native, "library", lambda _: built)
    inputs = preprocess(simulated_plates().images)
    for name in MODELS:
        model = BModel.load(packaged() / name)
        emulator = Emulator(model.exported, threads=1, kernels="native")
        wanted = read_shards([simulated(model)]).logits
        assert np.array_equal(emulator.run(inputs), wanted), (name, emulator.description)


@pytest.mark.slow
def test_logits_on_an_emulated_arm_are_the_simulators(tmp_path, monkeypatch):
    """By GCC for aarch64 and qemu-user, where they are installed: minutes."""
    arm = Elsewhere(tmp_path)
    assert arm.numbers[4] == ctypes.sizeof(native._Op) and "AVX" not in arm.name
    monkeypatch.setattr(native, "library", lambda _: arm)
    inputs = preprocess(simulated_plates().images)
    for name in MODELS:
        model = BModel.load(packaged() / name)
        emulator = Emulator(model.exported, threads=1, kernels="native")
        arm.executor = emulator._executor
        wanted = read_shards([simulated(model)]).logits
        assert np.array_equal(emulator.run(inputs), wanted), (name, arm.name)


@pytest.mark.parametrize("name", MODELS)
def test_without_a_c_compiler_integers_are_the_simulators_too(name, tmp_path, monkeypatch):
    """PyTorch sums floats in an order of its own: such layers may move a logit by one step."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    model = BModel.load(packaged() / name)
    emulator = Emulator(model.exported, threads=1)
    assert emulator.description["kernels"] == "torch"
    assert "no C compiler" in emulator.description["reason"]
    inputs, wanted = preprocess(simulated_plates().images), read_shards([simulated(model)]).logits
    made = emulator.run(inputs)
    assert np.array_equal(made.argmax(1), wanted.argmax(1))
    if name.endswith("_kl"):
        assert np.array_equal(made, wanted)
