from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import report_sample

from lprnet_nb.measure.schema import BModelFacts, Metrics
from lprnet_nb.report import verdict
from lprnet_nb.report.html import write_html


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
        "INT8 loses no more than 1 point of exact match on BM1684X. "
        "Whether INT8 loses more than 1 point on BM1684, 1,000 plates cannot tell."
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


def _judged(loss: dict[str, Any], agreement: float = 0.95, **changes: Any) -> verdict.Verdict:
    metrics = copy.deepcopy(report_sample.metrics("published"))
    rows = [report_sample.row(*FLOAT), report_sample.row(*_int8(880, agreement, 0.01))]
    rows[1]["loss"] = {"decides": None, **loss}
    return verdict.judge(
        Metrics.model_validate_json(json.dumps({**metrics, "rows": rows, **changes}))
    )


WITHIN = {"difference": -0.002, "ci95": [-0.008, 0.004], "outcome": "within"}
BEYOND = {"difference": -0.03, "ci95": [-0.042, -0.018], "outcome": "not within"}
OPEN = {"difference": -0.006, "ci95": [-0.0154, 0.0034], "outcome": "too few plates"}


@pytest.mark.parametrize(
    ("loss", "headline", "sentence"),
    [
        (
            WITHIN,
            "INT8 loses no more than 1 point of exact match on BM1684X.",
            "−0.2 points against float (95 % interval −0.8 to +0.4): no more than 1 point lost.",
        ),
        (
            BEYOND,
            "INT8 loses more than 1 point of exact match on BM1684X.",
            "−3.0 points against float (95 % interval −4.2 to −1.8): more than 1 point lost.",
        ),
        (
            {**OPEN, "decides": 5400},
            "Whether INT8 loses more than 1 point on BM1684X, 1,000 plates cannot tell.",
            "−0.6 points against float (95 % interval −1.5 to +0.3): 1,000 plates cannot tell "
            "whether it loses more than 1 point. About 5,400 such plates would: scripts/report.sh "
            "--data FOLDER, with that many of your own.",
        ),
    ],
)
def test_a_loss_is_put_into_words(loss: dict, headline: str, sentence: str) -> None:
    judged = _judged(loss)
    [only] = judged.chips["BM1684X"]
    assert (only.state, judged.headline, only.sentence) == (loss["outcome"], headline, sentence)


def test_what_would_decide_is_a_command_that_can_be_run() -> None:
    few = {"name": "published-1000", "images": 100, "digest": "ab" * 32}
    [only] = _judged({**OPEN, "decides": 810}, dataset=few).chips["BM1684X"]
    assert only.sentence.endswith("About 810 such plates would: scripts/report.sh --images 810")
    [only] = _judged({**OPEN, "decides": 5400}, dataset=few).chips["BM1684X"]
    assert only.sentence.endswith("scripts/report.sh --images 0")
    [only] = _judged(OPEN, dataset=few).chips["BM1684X"]
    assert only.sentence.endswith("no number of such plates would.")


def test_reading_all_plates_alike_is_enough_only_where_there_are_enough() -> None:
    alike = {"difference": 0.0, "ci95": [-0.019, 0.019], "outcome": "too few plates"}
    [only] = _judged({**alike, "decides": 200}, agreement=1.0).chips["BM1684X"]
    assert only.state == "too few plates"
    [only] = _judged({**WITHIN, "difference": 0.0}, agreement=1.0).chips["BM1684X"]
    assert only.state == "same"


def test_a_gate_names_every_model_that_is_not_within() -> None:
    metrics = _metrics([FLOAT, _int8(893, 0.99, 0.9), _int8(850, 0.9, 0.0001, chip="BM1684")])
    [line] = verdict.losers(metrics)
    few = _metrics([FLOAT, _int8(888, 0.99, 0.9)])
    assert ["cannot tell" in each for each in verdict.losers(few)] == [True]
    assert line.startswith("BM1684 INT8 kl, batch 1, greedy: −4.4 points against float")
    assert not verdict.losers(_metrics([FLOAT, _int8(893, 0.99, 0.9)]))


def test_reports_of_schema_1_are_read_and_not_judged() -> None:
    value = copy.deepcopy(report_sample.metrics("published"))
    del value["tolerance"]
    for row in value["rows"]:
        del row["loss"]
    judged = verdict.judge(Metrics.model_validate_json(json.dumps({**value, "schema": 1})))
    assert judged.headline == (
        "Whether INT8 reads as well as float on BM1684X and BM1684 was not judged."
    )


def test_the_judged_model_is_named_beforehand_not_the_best() -> None:
    judged = verdict.judge(
        _metrics([FLOAT, _int8(893, 0.99, 0.9), _int8(850, 0.9, 0.0001, strategy="recommended")])
    )
    assert verdict.chosen(judged.chips["BM1684X"]).row.strategy == "recommended"
    assert "loses more than 1 point" in judged.headline


def test_without_labels_only_agreement_is_said() -> None:
    judged = verdict.judge(
        _metrics(
            [FLOAT, _int8(0, 0.9996, 1.0)],
            exact_match=None,
            ci95=None,
            character_accuracy=None,
            mcnemar_p=None,
            loss=None,
        )
    )
    [only] = judged.chips["BM1684X"]
    assert only.sentence == "Reads 99.9 % of the images as the float network does."
    assert "was not judged" in judged.headline and "no labels" in judged.reference


def test_float_models_alone() -> None:
    compiled = ("BM1684", "fp32", 1, None, "greedy", 894, 1.0, 1.0, 1.0, None, None)
    assert (
        verdict.judge(_metrics([FLOAT, compiled])).headline
        == "The compiled float models read every image as float does, on BM1684."
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
        "The chip simulator ran 4 images through each of 7 BModels: the same logits to the bit."
    )
    near = verdict.judge(metrics, _facts(metrics, identical=False, max_abs_difference=0.0312))
    said = "the same readings, up to 0.031 of a logit."
    assert near.checked and near.computed.endswith(f"7 BModels: {said}")
    apart = {"identical": False, "max_abs_difference": 0.0312}
    mixed = verdict.judge(metrics, [*_facts(metrics)[:2], *_facts(metrics, **apart)[2:]])
    assert mixed.computed.endswith(f": 2 with the same logits to the bit; 5 with {said}")
    assert [one.exactness.text for found in mixed.chips.values() for one in found] == [
        *["to the bit"] * 2,
        *["same readings, up to 0.031 of a logit"] * 5,
    ]
    tiny = {"identical": False, "max_abs_difference": 1.5e-05}
    assert verdict.exactness(tiny).text == "same readings, up to 0.001 of a logit"
    wrong = verdict.judge(metrics, _facts(metrics, identical=False, same_readings=False))
    assert not wrong.checked and wrong.computed.endswith("other readings.")
    assert verdict.exactness({"identical": False, "same_readings": False}).text == "differs"
    named = {"images": 4, "identical": False, "same_readings": False, "read_otherwise": ["1.png"]}
    assert verdict.exactness(named).text == "1 of 4 plates read otherwise"
    assert verdict.exactness(named).state == "bad"
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


def test_a_bmodel_from_elsewhere_has_a_row_a_name_and_a_badge(tmp_path: Path) -> None:
    theirs = ("BM1684X", "unknown", 4, "vendor-int8", "greedy", 880, 0.97, 0.2, 0.99, 20.0, None)
    metrics = _metrics([FLOAT, _int8(890, 0.98, 0.6), theirs])
    facts = _facts(metrics)
    facts[1] = facts[1].model_copy(update={"crosscheck": None})
    judged = verdict.judge(metrics, facts)
    ours, other = judged.chips["BM1684X"]
    assert ours.exactness is not None and ours.exactness.text == "to the bit"
    assert other.exactness is not None
    assert other.exactness.text == "no record: exactness not known"
    assert verdict.row_name(other.row) == "BM1684X vendor-int8"
    assert verdict.chosen(judged.chips["BM1684X"]) is ours
    report_sample.build(tmp_path)
    (tmp_path / "metrics.json").write_text(metrics.model_dump_json(by_alias=True), "utf8")
    page = write_html(tmp_path).read_text("utf8")
    assert "no record: exactness not known" in page and "UNKNOWN" not in page
