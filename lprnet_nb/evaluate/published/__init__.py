"""Figures that others published, to stand beside ours.

From the sophon-demo LPRNet sample, two states of it: ``sophon-demo 2022-11`` (compiled by TPU-NNTC)
and ``sophon-demo 2024-10`` (by TPU-MLIR). Exact match is on the 1,000 published test images,
latency on the vendor's boards.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class PublishedAccuracy:
    """One published exact-match figure."""

    source: str
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
    bmrt_test_ms_per_image: float
    infer_ms_per_image: float
    qps: float | None


def published_accuracy(
    chip: str | None = None,
    precision: str | None = None,
) -> list[PublishedAccuracy]:
    """Published accuracies, all or those of one chip ("BM1684X") or precision ("int8")."""
    rows = [
        PublishedAccuracy(
            row["source"],
            row["chip"],
            row["program"],
            row["model"],
            int(row["batch"]),
            float(row["exact_match"]),
            row["note"],
        )
        for row in _rows("accuracy.csv")
    ]
    return _select(rows, chip, precision)


def published_latency(
    chip: str | None = None,
    precision: str | None = None,
) -> list[PublishedLatency]:
    """Published latencies, all or those of one chip or precision."""
    rows = [
        PublishedLatency(
            row["source"],
            row["chip"],
            row["model"],
            int(row["batch"]),
            float(row["bmrt_test_ms_per_image"]),
            float(row["infer_ms_per_image"]),
            float(row["qps"]) if row["qps"] else None,
        )
        for row in _rows("latency.csv")
    ]
    return _select(rows, chip, precision)


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text("utf8")
    return list(csv.DictReader(text.splitlines()))


def _select(rows: list, chip: str | None, precision: str | None) -> list:
    return [row for row in rows if chip in (None, row.chip) and precision in (None, row.model)]
