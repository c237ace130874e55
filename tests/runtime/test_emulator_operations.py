"""Every operation on random networks of the vendor's compiler: interpreter and simulator, to the
bit, by both executors."""

from __future__ import annotations

import json
import shutil

import emulator_networks
import numpy as np
import pytest
from emulator_networks import branch_of

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator import Emulator

KERNELS = ("torch", *(["native"] if any(map(shutil.which, ("cc", "gcc", "clang"))) else []))
# (seed, chip, asymmetric, batch)
QUICK = [(1, "BM1684X", False, 1), (1, "BM1684", False, 1)]
SLOW = [
    (1, "BM1684X", True, 1),
    (2, "BM1684X", False, 1),
    (2, "BM1684", False, 1),
    (1, "BM1688", False, 1),
    (1, "CV186X", False, 1),
    (1, "BM1684X", False, 2),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
# Products in F32, which the interpreter sums in an order that is not known: bounded, by torch.
FLOAT_PRODUCTS = {"BM1684": {"linear_steps", "attention"}, "asymmetric": {"attention"}}
TIME_FIRST = {"time_first", "linear_time_first"}  # whose first axis a batch above 1 shares
FLOAT_BOUND = 1e-5  # of the largest value
# What the chip computes otherwise than the interpreter, in a way that is not known.
CHIP_UNKNOWN = {
    "BM1684": {"transposed": "tpu.Deconv", "transposed_depthwise": "tpu.Deconv"},
    "BM1684 1": {"average_exclude": "count_include_pad = False"},
    "asymmetric": {"concat_channels": "tpu.RequantInt"},
}
NEITHER = {"asymmetric": {"scalar_minus": "tpu.SubConst"}}
BRANCHES = tuple(emulator_networks.Network(0).branches)


def kinds(case) -> list[str]:
    return [case[1], f"{case[1]} {case[0]}", *(["asymmetric"] if case[2] else [])]


def refused(case, arithmetic) -> dict[str, str]:
    """Branches of a case that the emulator refuses, with a part of what it says."""
    found = {}
    for kind in kinds(case):
        found |= NEITHER.get(kind, {})
        if arithmetic == "chip":
            found |= CHIP_UNKNOWN.get(kind, {})
    return found


def float_products(case) -> set[str]:
    return set().union(*(FLOAT_PRODUCTS.get(kind, set()) for kind in kinds(case)))


def torch_only(case, arithmetic) -> set[str]:
    """Branches that the native kernels leave to torch."""
    left = TIME_FIRST if case[3] > 1 else set()
    return left | float_products(case) if arithmetic == "interpreter" else left


class Found:
    """What the emulator makes of a network, by arithmetic and kernels."""

    def __init__(self, case, folder):
        self.case, self.judged = case, emulator_networks.judged(*case)
        self.tensors = {}
        self._record = json.loads((self.judged.graph / "graph.json").read_text())
        for arithmetic in ("interpreter", "chip"):
            for kernels in KERNELS:
                left = set(refused(case, arithmetic))
                if kernels == "native":
                    left |= torch_only(case, arithmetic)
                part = self.judged.part(set(BRANCHES) - left, folder / f"{arithmetic}-{kernels}")
                emulator = Emulator(part, threads=2, kernels=kernels, arithmetic=arithmetic)
                self.tensors[arithmetic, kernels] = emulator.tensors(self.judged.inputs, raw=True)

    def layers_of(self, branch) -> set[str]:
        """Layers that a branch's outputs hang on."""
        needed = {name for name in self._record["outputs"] if branch_of(name) == branch}
        for op in reversed(self._record["ops"]):
            if op["name"] in needed:
                needed.update(name for name in op["operands"] if name)
        return needed


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def found(request, compiler, tmp_path_factory):
    return Found(request.param, tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_layer_is_the_interpreters(found, branch):
    if branch in refused(found.case, "interpreter"):
        return  # see test_what_is_refused_is_named
    compared = 0
    for kernels in KERNELS:
        if kernels == "native" and branch in torch_only(found.case, "interpreter"):
            continue
        mine = found.tensors["interpreter", kernels]
        for layer in found.layers_of(branch) & found.judged.layers.keys():
            expected = found.judged.layers[layer]
            if layer not in mine:  # sums that the next operation requantizes
                assert layer.endswith("_i32"), layer
                continue
            values = mine[layer].reshape(expected.shape)
            compared += branch_of(layer) == branch
            if branch in float_products(found.case):
                bound = FLOAT_BOUND * np.abs(expected).max()
                assert np.abs(values - expected).max() <= bound, (layer, kernels)
            else:
                assert np.array_equal(values, expected), (layer, kernels)
    assert compared


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_output_is_the_simulators(found, branch):
    if branch in refused(found.case, "chip"):
        return
    [(name, expected)] = [
        (name, values) for name, values in found.judged.outputs.items() if branch_of(name) == branch
    ]
    for kernels in KERNELS:
        if kernels == "native" and branch in torch_only(found.case, "chip"):
            continue
        values = found.tensors["chip", kernels][name].reshape(expected.shape)
        assert np.array_equal(values, expected), kernels
    assert len(np.unique(expected)) > 3  # not all saturated


@pytest.mark.parametrize("arithmetic", ["interpreter", "chip"])
def test_what_is_refused_is_named(found, arithmetic, tmp_path):
    for branch, said in refused(found.case, arithmetic).items():
        part = found.judged.part({branch}, tmp_path / branch)
        with pytest.raises(EngineError, match=f"{said}.*use the simulator backend"):
            Emulator(part, arithmetic=arithmetic)


def test_what_the_native_kernels_lack_goes_to_torch(found, tmp_path):
    for branch in torch_only(found.case, "interpreter"):
        emulator = Emulator(
            found.judged.part({branch}, tmp_path / branch), arithmetic="interpreter"
        )
        assert emulator.description["kernels"] == "torch"
        assert branch in emulator.description["reason"]
