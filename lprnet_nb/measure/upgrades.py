"""What releases of the compiler side by side come to, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluate.paired import holm

LEVEL = 0.05  # of p after correction


def upgrades_said(found: Sequence[Mapping[str, Any]]) -> str:
    """What the change of releases does, p after Holm's correction; "" where there is none.

    Parameters
    ----------
    found
        See `schema.Upgrade`.
    """
    if not found:
        return ""
    same = sum(one["same_logits"] for one in found)
    said = [f"{same} of {len(found)} comparisons have the same logits, to the bit."]
    corrected = [float(p) for p in holm([one["p"] for one in found])]
    beyond = [(one, p) for one, p in zip(found, corrected) if p < LEVEL]
    said += [
        f"{one['chip']} {one['precision'].upper()} {one['strategy'] or ''} ({one['decoder']}), "
        f"{one['release']} to {one['to']}: {100 * one['difference']:+.1f} points, corrected p "
        f"{p:.2g}."
        for one, p in beyond
    ]
    if same < len(found) and not beyond:
        said.append(
            "No difference of readings is more than chance would bring: the smallest corrected p "
            f"is {min(corrected):.2g}."
        )
    times = (one["predicted_latency_ms"] for one in found)
    shares = [100 * new / old for old, new in times if old and new]
    if shares:
        ends = " to ".join(dict.fromkeys(f"{end(shares):.0f}" for end in (min, max)))
        said.append(f"Where a time is predicted, it becomes {ends} % of what it was.")
    return " ".join(said)
