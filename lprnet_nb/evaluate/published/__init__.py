"""Figures that others published, to stand beside ours.

From the sophon-demo LPRNet sample, two states of it: ``sophon-demo 2022-11`` (compiled by TPU-NNTC)
and ``sophon-demo 2024-10`` (by TPU-MLIR). Exact match is on the 1,000 published test images, times
are of the vendor's boards. Programs: ``opencv`` resizes on the CPU, ``bmcv`` on the device; ``.py``
is Python, ``.pcie`` and ``.soc`` are C++.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from ..timings import STAGES

LATEST = "sophon-demo 2024-10"
OURS = ("lprnet_opencv.py", "lprnet_opencv")  # programs that prepare images as the workbook does


@dataclass(frozen=True)
class PublishedAccuracy:
    """One published exact-match figure."""

    source: str
    platform: str
    chip: str
    program: str
    model: str
    batch: int
    exact_match: float
    note: str


@dataclass(frozen=True)
class PublishedLatency:
    """One published latency: the runtime's own test, the sample program, and its throughput."""

    source: str
    chip: str
    model: str
    batch: int
    cores: int
    bmrt_test_ms_per_image: float
    infer_ms_per_image: float | None
    qps: float | None


@dataclass(frozen=True)
class PublishedTimes:
    """Milliseconds an image of a sample program, by stage."""

    source: str
    platform: str
    chip: str
    program: str
    model: str
    batch: int
    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float


def published_accuracy(
    chip: str | None = None, precision: str | None = None
) -> list[PublishedAccuracy]:
    """Published accuracies, all or those of one chip ("BM1684X") or precision ("int8")."""
    rows = [
        PublishedAccuracy(
            row["source"],
            row["platform"],
            row["chip"],
            row["program"],
            row["model"],
            int(row["batch"]),
            float(row["exact_match"]),
            row["note"],
        )
        for row in _rows("accuracy.csv")
    ]
    return [row for row in rows if _is(row, chip, precision)]


def published_latency(
    chip: str | None = None, precision: str | None = None, *, cores: int | None = 1
) -> list[PublishedLatency]:
    """Published latencies, all or those of one chip or precision, on so many cores of it."""
    rows = [
        PublishedLatency(
            row["source"],
            row["chip"],
            row["model"],
            int(row["batch"]),
            int(row["cores"]),
            float(row["bmrt_test_ms_per_image"]),
            _maybe(row["infer_ms_per_image"]),
            _maybe(row["qps"]),
        )
        for row in _rows("latency.csv")
    ]
    return [row for row in rows if _is(row, chip, precision) and cores in (None, row.cores)]


def published_times(chip: str | None = None, precision: str | None = None) -> list[PublishedTimes]:
    """Published stage times of the sample programs, all or those of one chip or precision."""
    rows = [
        PublishedTimes(
            row["source"],
            row["platform"],
            row["chip"],
            row["program"],
            row["model"],
            int(row["batch"]),
            *(float(row[f"{stage}_ms"]) for stage in STAGES),
        )
        for row in _rows("program_times.csv")
    ]
    return [row for row in rows if _is(row, chip, precision)]


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text("utf8")
    return list(csv.DictReader(text.splitlines()))


def _maybe(text: str) -> float | None:
    return float(text) if text else None


def _is(
    row: PublishedAccuracy | PublishedLatency | PublishedTimes,
    chip: str | None,
    precision: str | None,
) -> bool:
    return chip in (None, row.chip) and precision in (None, row.model)
