from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import report_sample

from lprnet_nb.measure.schema import BModelFacts, Metrics
from lprnet_nb.report import verdict


def _metrics(
    rows: list[tuple] | None = None, source: str = "published", images: int = 1000, **of_rows: Any
) -> Metrics:
    value = copy.deepcopy(report_sample.metrics(source))
    value["dataset"]["images"] = images
    if rows is not None:
        value["rows"] = [report_sample.row(*one, images=images) for one in rows]
    for one in value["rows"]:
        one.update(of_rows)
    return Metrics.model_validate_json(json.dumps(value))


def _facts(metrics: Metrics, **crosscheck: Any) -> list[BModelFacts]:
    checked = {"images": 4, "identical": True, "same_classes": True, "max_abs_difference": 0.0}
    return [
        BModelFacts.model_validate_json(
            json.dumps(
                {
                    "id": row.id,
                    "chip": row.chip,
                    "precision": row.precision,
                    "batch": row.batch,
                    "strategy": row.strategy,
                    "predicted_latency_ms": None,
                    "sha256": "0" * 64,
                    "tools": {},
                    "crosscheck": {**checked, **crosscheck},
                }
            )
        )
        for row in {row.id: row for row in metrics.rows if row.chip}.values()
    ]


FLOAT = (None, "fp32", 1, None, "greedy", 894, None, None, None, None, None)


def _int8(
    right: int,
    agreement: float,
    p: float,
    chip: str = "BM1684X",
    strategy: str = "kl",
) -> tuple:
    return (chip, "int8", 1, strategy, "greedy", right, agreement, p, 0.98, 14.0, None)


def test_sentences_of_the_sample() -> None:
    judged = verdict.judge(_metrics())
    assert judged.headline == (
        "INT8 cannot be told from float on BM1684X, as far as 1,000 plates can tell. "
        "INT8 reads fewer plates than float on BM1684, and by more than chance."
    )
    assert judged.data == (
        "Measured on all 1,000 published test plates, read with the published "
        "weights and the greedy decoder."
    )
    assert judged.reference == (
        "The float network in PyTorch reads 894 of 1,000 plates without "
        "any error: 0.894 (95 % interval 0.873 to 0.912)."
    )
    assert not judged.warnings


def test_p_values_are_corrected_over_the_int8_rows() -> None:
    chips = verdict.judge(_metrics()).chips
    found = {
        (chip, one.row.strategy): one.p
        for chip, members in chips.items()
        for one in members
        if one.row.precision == "int8"
    }
    # Holm by hand: 4 x 2.1e-6, 3 x 0.00031, 2 x 0.0241, 1 x 0.8145
    assert found == pytest.approx(
        {
            ("BM1684", "kl"): 8.4e-6,
            ("BM1684X", "kl"): 0.00093,
            ("BM1684", "recommended"): 0.0482,
            ("BM1684X", "recommended"): 0.8145,
        }
    )
    [worse] = [one for one in chips["BM1684"] if one.row.strategy == "recommended"]
    assert worse.difference == -13
    assert worse.sentence == (
        "Reads 13 of 1,000 plates fewer than float; this difference is more "
        "than chance (McNemar p = 0.048, corrected for 4 comparisons)."
    )


@pytest.mark.parametrize(
    ("row", "state", "headline"),
    [
        (_int8(894, 1.0, 1.0), "same", "INT8 reads every image exactly as float does on BM1684X."),
        (
            _int8(894, 0.9, 1.0),
            "chance",
            "INT8 cannot be told from float on BM1684X, as far as 1,000 plates can tell.",
        ),
        (
            _int8(850, 0.9, 0.001),
            "worse",
            "INT8 reads fewer plates than float on BM1684X, and by more than chance.",
        ),
        (
            _int8(930, 0.9, 0.001),
            "better",
            "INT8 reads more plates than float on BM1684X, and by more than chance.",
        ),
    ],
)
def test_states(row: tuple, state: str, headline: str) -> None:
    judged = verdict.judge(_metrics([FLOAT, row]))
    [only] = judged.chips["BM1684X"]
    assert (only.state, judged.headline) == (state, headline)
    assert "corrected" not in only.sentence


def test_the_judged_model_is_named_beforehand_not_the_best() -> None:
    judged = verdict.judge(
        _metrics([FLOAT, _int8(893, 0.99, 0.9), _int8(850, 0.9, 0.0001, strategy="recommended")])
    )
    assert verdict.chosen(judged.chips["BM1684X"]).row.strategy == "recommended"
    assert "fewer plates" in judged.headline


def test_without_labels_only_agreement_is_said() -> None:
    judged = verdict.judge(
        _metrics(
            [FLOAT, _int8(0, 0.9996, 1.0)],
            exact_match=None,
            ci95=None,
            character_accuracy=None,
            mcnemar_p=None,
        )
    )
    [only] = judged.chips["BM1684X"]
    assert only.sentence == "Reads 99.9 % of the images as the float network does."
    assert "no labels" in judged.headline and "no labels" in judged.reference


def test_float_models_alone() -> None:
    compiled = ("BM1684", "fp32", 1, None, "greedy", 894, 1.0, 1.0, 1.0, None, None)
    assert (
        verdict.judge(_metrics([FLOAT, compiled])).headline
        == "The compiled float models read every image as PyTorch does, on BM1684."
    )
    assert verdict.judge(_metrics([FLOAT])).headline == "Nothing but the float network was run."
    [title, _] = verdict.judge(_metrics([])).warnings[0]
    assert title == "Nothing was measured"


def test_generated_plates_are_said_loudly() -> None:
    judged = verdict.judge(_metrics(source="generated"))
    assert [title for title, _ in judged.warnings] == ["Generated plates, not photographs"]
    assert "weights of our own" in judged.data


def test_what_the_simulator_said() -> None:
    metrics = _metrics()
    computed = verdict.judge(metrics, _facts(metrics))
    assert computed.checked and computed.computed.endswith(
        "The chip simulator then ran 4 images through each of 7 BModels: every logit is "
        "identical, bit for bit."
    )
    near = verdict.judge(metrics, _facts(metrics, identical=False, max_abs_difference=0.0312))
    assert near.checked and "the largest difference of a logit 0.031" in near.computed
    wrong = verdict.judge(metrics, _facts(metrics, identical=False, same_classes=False))
    assert not wrong.checked and "the same readings, 7 of them with another class" in wrong.computed
    some = verdict.judge(metrics, _facts(metrics)[1:])
    assert not some.checked and some.computed.endswith("Not checked: bm1684x_fp32_1b.")
    assert not verdict.judge(metrics).checked


def test_few_images_are_called_a_quick_look() -> None:
    judged = verdict.judge(_metrics([(*FLOAT[:5], 89, *FLOAT[6:])], images=100))
    assert judged.notes[0].startswith("100 images are a quick look (intervals up to 0.12 wide)")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, "–"),
        (0.0, "< 0.0001"),
        (0.00031, "0.0003"),
        (0.0241, "0.024"),
        (0.8145, "0.81"),
        (1.0, "1.00"),
    ],
)
def test_p_values_as_read(p: float | None, text: str) -> None:
    assert verdict.probability(p) == text
