"""Every column of a row of metrics.json, recomputed by other means from deliberately wrong models.

Two networks with disturbed weights stand for the float reference and for a compiled model. Both
misread plates, and not the same ones, so that no two of the quantities that a row holds are equal
by chance: a column that is computed from the wrong one of them shows.
"""

from __future__ import annotations

import dataclasses
from itertools import groupby

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine as cosine_distance
from scipy.stats import binomtest, norm

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.measure.data import Data
from lprnet_nb.measure.models import Compiled
from lprnet_nb.measure.parameters import check
from lprnet_nb.measure.rows import Measured, measure_all
from lprnet_nb.measure.schema import Row
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import TracedModel, trace_model
from lprnet_nb.model.weights import Weights

BATCH, LATENCY = 2, 0.123456789
READ_IN = 3.5  # seconds that reading the images is said to have taken


@dataclasses.dataclass(frozen=True)
class WrongModel(TracedModel):
    """A trace with the facts of a BModel, so that torch runs what stands for a compiled model."""

    chip: str = "BM1688"
    precision: str = "int8"
    cores: int = 2
    predicted_latency_ms: float = LATENCY
    graph: None = None
    foreign: bool = False
    without_file: bool = False


def disturbed(own: Weights, amount: float, seed: int) -> Weights:
    random = torch.Generator().manual_seed(seed)
    return dataclasses.replace(
        own,
        state={
            name: value * (1 + amount * torch.randn(value.shape, generator=random))
            if value.ndim > 3
            else value
            for name, value in own.state.items()
        },
    )


@pytest.fixture(scope="module")
def plates() -> PlateImages:
    return generate_plates(30, seed=77, workers=0)


@pytest.fixture(scope="module")
def pair(plates) -> tuple[Weights, Weights]:
    own = load_own_weights()
    return disturbed(own, 0.15, 3), disturbed(own, 0.21, 4)


@pytest.fixture(scope="module")
def measured(plates, pair) -> tuple[Measured, Measured]:
    wrong = trace_model(pair[1], BATCH, "batch")
    data = Data(plates, plates.take(range(7)), True, pair[0], "generated", "chosen", READ_IN)
    model = WrongModel(
        **{field.name: getattr(wrong, field.name) for field in dataclasses.fields(wrong)}
    )
    asked = check(BATCHES=BATCH, BATCH_MEAN="batch", DECODERS="greedy", BACKEND="torch")
    compiled = [Compiled("wrong", wrong, model, "mine")]
    reference, measured = measure_all(asked, data, compiled, progress=False)
    return reference, measured


@pytest.fixture(scope="module")
def logits(plates, pair) -> list[np.ndarray]:
    """Of the networks themselves in eager torch, without trace, engine or cache."""
    x = (plates.images.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127.5)) / 128
    with torch.inference_mode():
        return [
            torch.cat(
                [
                    weights.network("batch")(part)
                    for part in torch.from_numpy(np.ascontiguousarray(x)).split(BATCH)
                ]
            ).numpy()
            for weights in pair
        ]


def greedy(logits: np.ndarray, weights: Weights) -> list[str]:
    classes, blank = weights.alphabet.characters, weights.alphabet.blank
    return [
        "".join(classes[k] for k, _ in groupby(path.tolist()) if k != blank)
        for path in logits.argmax(1)
    ]


def distance(a: str, b: str) -> int:
    """Levenshtein's, one row at a time."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def wilson_by_hand(right: int, images: int) -> list[float]:
    z, p = norm.ppf(0.975), right / images
    middle, reach = (
        p + z * z / (2 * images),
        z * np.sqrt(p * (1 - p) / images + z * z / (4 * images * images)),
    )
    return [(middle + sign * reach) / (1 + z * z / images) for sign in (-1, 1)]


def expected(logits: np.ndarray, base: np.ndarray | None, plates: PlateImages, pair) -> dict:
    texts = greedy(logits, pair[0])
    right = [a == b for a, b in zip(plates.labels, texts)]
    row = {
        "batch": BATCH,
        "batch_mean": "batch",
        "backend": "torch",
        "decoder": "greedy",
        "images": len(plates),
        "exact_match": sum(right) / len(plates),
        "ci95": wilson_by_hand(sum(right), len(plates)),
        "character_accuracy": 1
        - sum(map(distance, plates.labels, texts)) / len("".join(plates.labels)),
    }
    if base is None:
        return row | {
            "chip": None,
            "precision": "fp32",
            "cores": 1,
            "strategy": None,
            **dict.fromkeys(
                (
                    "agreement_with_float",
                    "mcnemar_p",
                    "logits_cosine",
                    "logits_sqnr_db",
                    "predicted_latency_ms",
                    "loss",
                    "box",
                )
            ),
        }
    floats = greedy(base, pair[0])
    only_float = sum(a == f != t for a, f, t in zip(plates.labels, floats, texts))
    only_other = sum(a == t != f for a, f, t in zip(plates.labels, floats, texts))
    signal, noise = base.astype(float).ravel(), (base - logits.astype(float)).ravel()
    return row | {
        "chip": "BM1688",
        "precision": "int8",
        "cores": 2,
        "strategy": "mine",
        "agreement_with_float": sum(map(str.__eq__, floats, texts)) / len(plates),
        "mcnemar_p": binomtest(only_float, only_float + only_other).pvalue,
        "logits_cosine": 1 - cosine_distance(signal, logits.astype(float).ravel()),
        "logits_sqnr_db": 20 * np.log10(np.linalg.norm(signal) / np.linalg.norm(noise)),
        "predicted_latency_ms": LATENCY,
        "loss": loss_by_hand(only_float, only_other, len(plates)),
        "box": None,
    }


def loss_by_hand(only_float: int, only_other: int, images: int) -> dict:
    """Agresti and Min's interval of matched pairs: half a plate more in each of four cells."""
    counts = np.array([only_float, only_other, images - only_float - only_other])
    cells = counts + np.array([0.5, 0.5, 1])
    lost, won, _ = cells / cells.sum()
    half = norm.ppf(0.975) * np.sqrt((lost + won - (won - lost) ** 2) / cells.sum())
    low, high = won - lost - half, won - lost + half
    outcome = "within" if low > -0.01 else "not within" if high < -0.01 else "too few plates"
    return {
        "difference": (only_other - only_float) / images,
        "ci95": [low, high],
        "outcome": outcome,
    }


def test_the_models_are_wrong_enough_to_tell_the_columns_apart(plates, pair, logits):
    row = expected(logits[1], logits[0], plates, pair)
    base = expected(logits[0], None, plates, pair)
    values = [
        row["exact_match"],
        base["exact_match"],
        row["agreement_with_float"],
        row["character_accuracy"],
        base["character_accuracy"],
        row["mcnemar_p"],
        row["logits_cosine"],
        1.0,
        0.0,
    ]
    assert min(np.diff(sorted(values))) > 1e-3
    swapped = expected(logits[0], logits[1], plates, pair)
    assert abs(swapped["logits_sqnr_db"] - row["logits_sqnr_db"]) > 1e-3


@pytest.mark.parametrize("which", [0, 1], ids=["reference", "compiled"])
def test_every_column_is_what_other_means_give(measured, plates, pair, logits, which):
    row = measured[which].row
    wanted = expected(logits[which], logits[0] if which else None, plates, pair)
    not_here = {"release", "same_top1"}  # where one was named; of logits that are no CTC
    assert set(row) == set(wanted) == set(Row.model_fields) - not_here
    for column, value in wanted.items():
        if isinstance(value, float | list):
            # metrics.json has six decimals; torch sums in another order in a trace.
            assert row[column] == pytest.approx(value, abs=2e-5), column
            assert row[column] == np.round(row[column], 6).tolist(), column
        elif column == "loss" and which:
            assert row[column]["outcome"] == value["outcome"]
            assert row[column]["difference"] == pytest.approx(value["difference"], abs=2e-6)
            assert row[column]["ci95"] == pytest.approx(value["ci95"], abs=2e-6)
        else:
            assert row[column] == value, column


def test_milliseconds_are_of_an_image(measured, plates):
    for item in measured:
        assert set(item.milliseconds) == {"decode", "preprocess", "inference", "postprocess"}
        assert item.milliseconds["decode"] == pytest.approx(1000 * READ_IN / len(plates))
        for stage in ("preprocess", "inference"):
            assert item.milliseconds[stage] == pytest.approx(
                1000 * item.inference.seconds[stage] / len(plates)
            )
