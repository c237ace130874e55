"""Predicted times beside measured ones: what a call costs on the vendor's boards, by chip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ..evaluate.call_cost import Call, CallCost, fit_call_cost
from ..evaluate.published import LATEST, published_latency
from ..measure.schema import Row, read_metrics
from ..places import repository

# The strategy of the vendor's INT8 models, whose times are published.
VENDORS_STRATEGY = "kl"


@cache
def call_costs() -> dict[str, CallCost]:
    """The cost of a call by chip, from the newest committed full run and the published times.

    Chips of which the compiler predicts nothing (BM1684) are left out.
    """
    reports = sorted((repository() / "data" / "reports").glob("*/metrics.json"))
    return fit_all(read_metrics(reports[-1]).rows) if reports else {}


def board_time(
    chip: str, predicted_ms: float | None, batch: int = 1, cores: int = 1
) -> float | None:
    """Milliseconds a call that a prediction stands for; None where that cannot be told.

    What was published and fitted is of one core.
    """
    cost = call_costs().get(chip) if cores == 1 else None
    return None if cost is None or predicted_ms is None else cost.expected_ms(predicted_ms, batch)


def fit_all(rows: Sequence[Row]) -> dict[str, CallCost]:
    """`fit_call_cost` for every chip of which enough was predicted and measured."""
    calls: dict[str, dict[tuple[str, int], Call]] = {}
    for row in rows:
        if row.chip is None or row.predicted_latency_ms is None or row.cores > 1:
            continue
        if row.strategy not in (None, VENDORS_STRATEGY):
            continue
        for one in published_latency(row.chip, row.precision):
            if (one.source, one.batch) == (LATEST, row.batch):
                calls.setdefault(row.chip, {})[row.precision, row.batch] = Call(
                    row.precision,
                    row.batch,
                    row.predicted_latency_ms,
                    one.bmrt_test_ms_per_image * row.batch,
                )
    return {
        chip: fit_call_cost(list(found.values()))
        for chip, found in calls.items()
        if sum(call.batch == 1 for call in found.values()) > 1
    }
