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
    CrossFit,
    Reliability,
    accuracy_coverage,
    cross_fit_temperature,
    ece,
    log_loss,
    reliability,
)
from .fidelity import cosine, sqnr_db
from .intervals import bootstrap, wilson
from .paired import CochranQ, McNemar, cochran_q, holm, mcnemar_exact
from .published import PublishedAccuracy, PublishedLatency, published_accuracy, published_latency
from .timings import STAGES, Stopwatch

__all__ = [
    "GAP",
    "STAGES",
    "CochranQ",
    "Confusion",
    "Coverage",
    "CrossFit",
    "McNemar",
    "PublishedAccuracy",
    "PublishedLatency",
    "Reliability",
    "Stopwatch",
    "accuracy_coverage",
    "align",
    "bootstrap",
    "character_accuracy",
    "cochran_q",
    "confusion",
    "correct",
    "cosine",
    "cross_fit_temperature",
    "ece",
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
