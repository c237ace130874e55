"""Quantization-aware training: its integers by hand, and what a short run brings.

``golden/integer_grids.json`` holds the grids that TPU-MLIR 1.30.2 gave the published weights (mse,
the first 20 published images); `tests/toolchain/test_finetune.py` makes them again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import ParameterError
from lprnet_nb.model import qat
from lprnet_nb.model.qat import QatConfig, QuantizedLPRNet, Unit, finetune, quantized_logits
from lprnet_nb.model.trace import float_logits

GOLDEN = Path(__file__).parents[1] / "golden" / "integer_grids.json"


def grid(chip):
    return {
        name: Unit(**fields) for name, fields in json.loads(GOLDEN.read_text("utf8"))[chip].items()
    }


def test_results_round_half_up_and_gradients_stop_where_they_are_clipped():
    values = torch.tensor([-0.6, -0.4, 0.49, 0.5, 2.5, 254.6, 255.6], requires_grad=True)
    whole = qat.requantize(values, 0, 255)
    assert whole.tolist() == [0, 0, 0, 1, 3, 255, 255]
    whole.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_weights_round_half_away_from_zero_and_gradients_pass():
    values = torch.tensor([-130.0, -2.5, -0.5, 0.5, 1.4], requires_grad=True)
    whole = qat.round_away(values, -128, 127)
    assert whole.tolist() == [-128, -3, -1, 1, 1]
    whole.sum().backward()
    assert values.grad.tolist() == [1, 1, 1, 1, 1]


def test_convolution_with_a_scale_per_channel(weights):
    network = QuantizedLPRNet(
        weights, grid("BM1684X") | {"in": Unit(0.5, 0, 255), "out": Unit(2.0, 0, 255)}
    )
    conv = torch.nn.Conv2d(1, 3, 1)
    conv.weight.data = torch.tensor([[[[1.27]]], [[[-0.3]]], [[[0.0]]]])
    conv.bias.data = torch.tensor([0.0151, 40.0, 3.0])
    # Steps 0.01, 0.3/127 and the floor; weights 127, -127, 0; biases round(b / (0.5 step)).
    sums = [127 * 200 + 3, -127 * 200 + 33867, 600000]
    steps = [0.01, 0.3 / 127, 1e-5]
    wanted = [np.floor(s * step * 0.5 / 2 + 0.5) for s, step in zip(sums, steps)]
    assert wanted == [64, 5, 2]
    found = network._conv("out", "in", torch.full((1, 1, 1, 1), 200.0), conv)
    assert found.ravel().tolist() == wanted


def test_convolution_and_batch_norm_of_the_bm1684():
    x = torch.full((1, 1, 1, 1), 100.0)
    weight, bias = torch.tensor([[[[0.5]]]]), torch.tensor([1.0])
    # 0.5 * 2**3 * 0.25 / 0.5 = 2 and 1 * 2**3 / 0.5 = 16: (200 + 16) / 8 = 27
    middle = qat._shifted(x, 0.25, Unit(0.5, -128, 127, shifts=(3,)), weight, bias, (0, 0))
    assert middle.item() == 27
    # Factor 1.3 * 2**4 * 0.5 / 0.5 = 20.8 -> 21; offset (-2 / 0.5 + 0.5) * 16 = -56;
    # (27 * 21 - 56) / 16 = 31.9 -> 31, and half a unit is in the offset.
    unit = Unit(0.5, 0, 255, shifts=(4,))
    found = qat._scaled(middle, 0.5, unit, torch.tensor([1.3]), torch.tensor([-2.0]))
    assert found.item() == 31
    assert qat._scaled(middle, 0.5, unit, torch.tensor([-1.3]), torch.tensor([0.0])).item() == 0


def test_loss_is_the_divergence_of_the_classes():
    teacher, student = torch.zeros(1, 2, 1), torch.tensor([[[np.log(3.0)], [0.0]]])
    wanted = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert qat.distillation_loss(student, teacher, 1.0).item() == pytest.approx(wanted)
    assert qat.distillation_loss(teacher, teacher, 4.0).item() == 0


@pytest.mark.parametrize("chip", ["BM1684X", "BM1684"])
def test_a_short_run_brings_int8_nearer_to_float_on_unseen_plates(chip, weights):
    units, unseen = grid(chip), generate_plates(48, seed=99, workers=0)
    wanted = float_logits(weights, unseen)
    tuned = finetune(weights, units, QatConfig(steps=12, batch=8, seed=3))
    before, after = (
        ((quantized_logits(w, units, unseen) - wanted) ** 2).mean() for w in (weights, tuned)
    )
    assert after < 0.9 * before  # measured: 0.80 on BM1684X, 0.85 on BM1684


def test_the_seed_decides(weights):
    one, same, other = (
        finetune(weights, grid("BM1684"), QatConfig(steps=1, batch=2, seed=seed))
        for seed in (3, 3, 4)
    )
    assert one.digest == same.digest and len({one.digest, other.digest, weights.digest}) == 3
    assert torch.equal(one.state["backbone.1.running_var"], weights.state["backbone.1.running_var"])


def test_a_grid_that_lacks_a_tensor_is_refused(weights):
    units = grid("BM1684X")
    del units["kept11"]
    with pytest.raises(ParameterError, match="no tensor 'kept11'"):
        QuantizedLPRNet(weights, units)


@pytest.mark.parametrize(
    "fields", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"temperature": float("inf")}]
)
def test_impossible_runs_are_refused(fields):
    with pytest.raises(ParameterError, match=next(iter(fields))):
        QatConfig(**fields)
