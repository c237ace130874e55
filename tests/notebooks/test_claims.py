"""What the notebooks' prose claims about values, beside what is computed below the figures.

A sentence with a number in it is held here, by a value of the package, of the published tables or
of a committed study or report; or it is a definition, or a question.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import nbformat
import numpy as np
import pytest
import torch

from lprnet_nb.datasets.fetch import load_published
from lprnet_nb.datasets.generator.glyphs import CELL
from lprnet_nb.datasets.images import HEIGHT, WIDTH
from lprnet_nb.decode.views import WIDTHS
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.evaluate.paired import mcnemar_exact
from lprnet_nb.evaluate.published import LATEST, published_accuracy, published_latency
from lprnet_nb.lessons import quantize, trace
from lprnet_nb.measure.schema import read_metrics
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.qat import QatConfig
from lprnet_nb.model.train import TrainConfig
from lprnet_nb.places import repository
from lprnet_nb.proof.exactness import committed_record
from lprnet_nb.report.run import notebook_path
from lprnet_nb.study import results
from lprnet_nb.toolchain.chips import supports

ROOT = repository()
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def _rows() -> list:
    [report] = sorted((ROOT / "data" / "reports").glob("*/metrics.json"))[-1:]
    return [row for row in read_metrics(report).rows if row.decoder == "greedy" and row.chip]


def _published_right(batch: int) -> set[float]:
    """Of the program that reads as ours does."""
    return {
        row.exact_match
        for chip in ("BM1684", "BM1684X")
        for row in published_accuracy(chip, "fp32")
        if row.program == "lprnet_opencv" and row.batch == batch
    }


def _interval_points(right: int, images: int) -> float:
    low, high = wilson(right, images)
    return 100 * (high - low)


def _times(strategy: str) -> dict[str, float]:
    study = results.committed_study()
    return {chip: ms for (name, chip), ms in results.latencies(study).items() if name == strategy}


def _saves(before: str, after: str) -> bool:
    old, new = _times(before), _times(after)
    return bool(new) and all(new[chip] < old[chip] for chip in new)


def _a_call_is_mostly_not_the_network() -> bool:
    """Of INT8 models: measured on the vendor's boards against predicted, batch 1; and batch 4."""
    found = []
    for row in _rows():
        if row.precision == "int8" and row.strategy == "kl" and row.predicted_latency_ms:
            measured = {
                one.batch: one.bmrt_test_ms_per_image
                for one in published_latency(row.chip, "int8")
                if one.source == LATEST
            }
            if row.batch == 1 and {1, 4} <= set(measured):
                found.append(row.predicted_latency_ms < measured[1] / 2)
                found.append(measured[4] < 0.75 * measured[1])
    return len(found) > 2 and all(found)


def _record_is_exact() -> bool:
    rows = [row for row in committed_record()["rows"] if "images" in row]
    judged = [row for row in rows if row["judge"] == "interpreter"]
    return max(row["images"] for row in rows) == 1000 and all(row["identical"] for row in judged)


def _float_agrees_and_int8_differs() -> bool:
    return all(
        row.agreement_with_float == 1 and row.logits_cosine > 0.999999
        if row.precision == "fp32"
        else row.logits_cosine < 0.9999
        for row in _rows()
        if row.precision in ("fp32", "int8")
    )


def _vendors_calibrate_on_the_test() -> bool:
    return any("calibrated on test" in row.note for row in published_accuracy("BM1684X", "int8"))


def _logits() -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(
            load_own_weights().network("image")(torch.zeros(1, 3, HEIGHT, WIDTH)).shape[1:]
        )


def _source(path: str, text: str) -> bool:
    return text in (ROOT / "lprnet_nb" / path).read_text("utf8")


HELD: list[tuple[str, str, Callable[[], bool]]] = [
    ("01", "18 time steps from left to right, 68 classes", lambda: _logits() == (68, 18)),
    (
        "01",
        "two pools (bold) halve and quarter the *channels*",
        lambda: sorted(trace.STRIDED_POOLS.values()) == [2, 4],
    ),
    (
        "01",
        "The vendor's own table has the network read better at batch 4 than alone",
        lambda: min(_published_right(4)) > max(_published_right(1)),
    ),
    (
        "01",
        "makes every character a fifth narrower",
        lambda: abs(HEIGHT * trace.PLATE_RATIO / WIDTH - 0.8) < 0.01,
    ),
    (
        "01",
        "values below 1.2e-38",
        lambda: f"{np.finfo(np.float32).tiny:.1e}" == "1.2e-38",
    ),
    ("02", "the BM1684 has no FP16", lambda: not supports("BM1684", "fp16")),
    ("02", "For so small a network in INT8 that is most", _a_call_is_mostly_not_the_network),
    ("02", "forked form saves some of this traffic", lambda: _saves("mse", "mse-forked")),
    ("02", "INT8 differs visibly in the logits", _float_agrees_and_int8_differs),
    (
        "03",
        "no time on the chip",
        lambda: _saves("mse", "mse-forked") and _saves("kl", "kl-forked"),
    ),
    ("03", "The vendor's sample calibrates on the very images", _vendors_calibrate_on_the_test),
    ("03", "255 steps of T/255", lambda: quantize.LEVELS == 255),
    ("03", "255 steps from 0 to the threshold", lambda: quantize.LEVELS == 255),
    (
        "03",
        "a histogram of 2,048 bins",
        lambda: _source("toolchain/inside/quantize_worker.py", "histogram_bin_num=2048"),
    ),
    ("03", "6 dB for every bit", lambda: round(20 * np.log10(2)) == 6),
    ("03", "keeps every 4th channel", lambda: 4 in trace.STRIDED_POOLS.values()),
    ("04", "checks up to 1,000 a model", _record_is_exact),
    ("04", "Stretched by 4 % either way", lambda: sorted(WIDTHS) == [0.96, 1.0, 1.04]),
    (
        "05",
        "On 1,000 plates the 95 % interval at 0.89 is 4 points wide, at 100 plates 12",
        lambda: [round(_interval_points(890, 1000)), round(_interval_points(89, 100))] == [4, 12],
    ),
    (
        "06",
        "no more than 1.25 times the predicted time",
        lambda: results.SLOWER == 1.25,
    ),
    ("06", "trains 30 steps on generated plates", lambda: QatConfig().steps == 30),
    ("07", "45×90 mm cells", lambda: CELL == (45, 90)),
    ("07", "nine or ten pixels wide", lambda: 9 < CELL[0] / 440 * WIDTH < 10),
    (
        "07",
        "drew six plates for each that it learnt from",
        lambda: (
            _source("model/own_weights/lprnet_generated.md", "--candidates 96")
            and TrainConfig.batch * 6 == 96
        ),
    ),
]
# No claim: what a thing is called or where it stands, a drawing's scale, an example that is asked.
STATED = (
    "the 3-D pool on input",  # notebook 01 prints the refusal, test_execution.py has it
    "3-D max-pool is a 2-D max-pool",  # 01 prints the difference, test_execution.py has it
    "PyTorch lets a 3-D pool",
    "at batch 1",
    "`load_weights` sets them to 0",
    "A plate with 88 on it",
    "a confidence of 0.8 is",  # what the diagonal is
    "in several orders at batch 4",
    "the pool after layer 13",
    "against the same layer in float, over 32 plates",
    "squeezed to 94×24",
    "At its default of 1",
    "for batch 4",  # a question of the exercises
    "what the vendor measured on its boards",
    "gains so much from batch 4",
    "On all 1,000, `docs/decoding.md`",  # which a test holds
    "of many tests, one falls below 0.05 by itself",
    "the published set is 96 %",  # test_one_province
)


@pytest.mark.parametrize(("notebook", "claim", "holds"), HELD, ids=[one[1] for one in HELD])
def test_the_claim_is_made_and_holds(notebook: str, claim: str, holds: Callable[[], bool]) -> None:
    [name] = [name for name in NOTEBOOKS if name.startswith(notebook)]
    assert claim in " ".join(_sentences(name)), "the claim is gone: take it out of HELD"
    assert holds()


def test_the_folded_answer_on_chance_is_right() -> None:
    """Notebook 05, section 3: three of three, and six of six."""
    [cell] = [
        cell.source
        for cell in nbformat.read(notebook_path("05_compare"), 4).cells
        if cell.cell_type == "code" and "course.answer(" in cell.source
    ]
    assert "(p = 0.25, two-sided). It takes six of six to fall below 0.05" in cell
    p = {count: mcnemar_exact([True] * count, [False] * count).p for count in (3, 5, 6)}
    assert p[3] == 0.25 and p[6] < 0.05 < p[5]


def test_one_province(published: object) -> None:
    labels = load_published().known_labels
    share = sum(label.startswith("皖") for label in labels) / len(labels)
    assert round(100 * share) == 96


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_number_stands_in_the_prose_unheld(name: str) -> None:
    known = [*(claim for notebook, claim, _ in HELD if name.startswith(notebook)), *STATED]
    loose = [
        sentence
        for sentence in _sentences(name)
        if re.search(r"\d", _without_names(sentence))
        and not any(one.lower() in sentence.lower() for one in known)
    ]
    assert not loose


def _sentences(name: str) -> list[str]:
    """Sentences of a notebook's prose: no headings, contents, tables, exercises or durations."""
    found = []
    for cell in nbformat.read(notebook_path(name), 4).cells:
        if cell.cell_type != "markdown" or re.match(r"## \d+ Three", cell.source):
            continue
        prose = re.sub(r"</?span[^>]*>", "", cell.source)
        parts = [part for part in prose.split("\n\n") if "How long it takes" not in part]
        lines = [
            line
            for part in parts
            for line in part.split("\n")
            if not re.match(r"#|\||\d+\. \[", line)
        ]
        found += re.split(r"(?<=[.?!:]) (?=[A-Z*`(])", re.sub(r"\s+", " ", " ".join(lines)))
    return found


NAMES = re.compile(
    r"`[^`]*`|\]\([^)]*\)|\b(?:FP|BF|INT|BM|CV|float)\d+X?|\bGA 36|\b0\d\b|[Ss]ections? [\d and]+"
    r"|notebooks? 0\d|layer 13|torch 2|§\d"
)


def _without_names(sentence: str) -> str:
    return NAMES.sub("", sentence)
