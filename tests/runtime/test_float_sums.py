"""Float layers to the bit: the simulators' orders of summation, by both executors."""

from __future__ import annotations

import shutil

import float_networks
import numpy as np
import pytest

from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.runtime.emulator.convolution import chip_sums

KERNELS = ("torch", *(["native"] if any(map(shutil.which, ("cc", "gcc", "clang"))) else []))
QUICK = [("BM1684", "F32"), ("BM1684X", "F16")]
SLOW = [
    ("BM1684X", "F32"),
    ("BM1684X", "BF16"),
    *[(chip, storage) for chip in ("BM1688", "CV186X") for storage in ("F32", "F16", "BF16")],
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize(("chip", "precision"), CASES)
def test_every_float_layer_is_the_simulators(compiler, chip, precision):
    judged = float_networks.layers(chip, precision)
    for kernels in KERNELS:
        emulator = Emulator(judged.graph, threads=1, kernels=kernels)
        found = emulator.tensors(judged.inputs, emulator.graph.outputs)
        for name, expected in zip(emulator.graph.outputs, judged.outputs, strict=True):
            assert np.array_equal(found[name].reshape(expected.shape), expected), (name, kernels)
            assert len(np.unique(expected)) > 3, name


@pytest.mark.parametrize(("chip", "precision"), CASES)
def test_probes_meet_the_same_parts_of_a_sum(compiler, chip, precision):
    """Products that differ by far more than a float holds: what is lost tells the order alone."""
    size = (37, 2, 1) if precision == "F32" else (37, 1, 2)
    pairs = [(one, other) for one in (0, 1, 36, 70) for other in range(74) if other != one]
    images = float_networks.probes(*size, pairs, precision)
    network = float_networks.Ones(*size)
    judged = float_networks.simulated(network, images, chip, precision)
    emulator = Emulator(judged.graph, threads=1)
    found = emulator.tensors(images, emulator.graph.outputs)[emulator.graph.outputs[0]]
    [expected] = (
        float_networks.part_sizes(values, size, len(pairs), precision) for values in judged.outputs
    )
    assert np.array_equal(float_networks.part_sizes(found, size, len(pairs), precision), expected)
    assert len(set(expected.tolist())) > 3


def test_orders_as_they_were_probed():
    # BM1684: tap after tap, the channels filled up to an even number, four lanes.
    sums = chip_sums("BM1684", "f32", 5, (3, 1), 1)
    assert sums.terms[:3].tolist() == [[0, 3, 6, 9], [12, -1, 1, 4], [7, 10, 13, -1]]
    assert (sums.bias_column, sums.fused, sums.storage) == (None, False, "f32")
    # The others in F32: channel after channel, the odd lane starts with the bias.
    sums = chip_sums("BM1688", "f32", 2, (1, 3), 1)
    assert sums.terms.tolist() == [[0, 1], [2, 3], [4, 5]] and sums.bias_column == 1
    # 16 bits: all taps of 32 or 16 channels before the next ones.
    sums = chip_sums("BM1684X", "f16", 40, (1, 3), 1)
    starts = [row[0] for row in sums.terms.tolist()]
    assert starts == [0, 1, 2, 96, 97, 98] and sums.fused and sums.terms.shape == (6, 32)
    assert chip_sums("CV186X", "bf16", 40, (1, 3), 1).terms.shape == (9, 16)
    # Kernels that fit beside the channels: whole, rows, columns; not where there are groups.
    assert chip_sums("BM1684X", "f16", 3, (3, 3), 1).terms.shape == (1, 32)
    assert chip_sums("BM1688", "f16", 3, (3, 3), 1).terms[0, :9].tolist() == [
        0, 3, 6, 9, 12, 15, 18, 21, 24,
    ]  # fmt: skip
    assert chip_sums("BM1684X", "f16", 6, (2, 3), 1).terms[0, :18].tolist() == [
        place for k in range(6) for place in (6 * k, 6 * k + 1, 6 * k + 2)
    ]
    assert chip_sums("BM1684X", "f16", 8, (3, 3), 3).terms.shape == (9, 32)
    # Depthwise in 16 bits.
    assert chip_sums("BM1684X", "f16", 1, (3, 3), 24).fused
    assert chip_sums("BM1688", "f16", 1, (3, 3), 24).storage == "f16"
