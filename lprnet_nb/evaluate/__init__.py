"""Accuracy, error bars, paired tests, fidelity, calibration of confidence, timings.

Takes labels and predictions, never files.
"""

from __future__ import annotations

from .accuracy import (
    GAP,
    Confusion,
    align,
    character_accuracy,
    confusion,
    correct,
    edit_distance,
    error_kinds,
    exact_match,
)
from .calibration import (
    Coverage,
    Reliability,
    accuracy_coverage,
    log_loss,
    reliability,
)
from .fidelity import cosine, sqnr_db
from .intervals import wilson
from .paired import McNemar, holm, mcnemar_exact
from .published import PublishedAccuracy, PublishedLatency, published_accuracy, published_latency
from .timings import STAGES

__all__ = [
    "GAP",
    "STAGES",
    "Confusion",
    "Coverage",
    "McNemar",
    "PublishedAccuracy",
    "PublishedLatency",
    "Reliability",
    "accuracy_coverage",
    "align",
    "character_accuracy",
    "confusion",
    "correct",
    "cosine",
    "edit_distance",
    "error_kinds",
    "exact_match",
    "holm",
    "log_loss",
    "mcnemar_exact",
    "published_accuracy",
    "published_latency",
    "reliability",
    "sqnr_db",
    "wilson",
]
