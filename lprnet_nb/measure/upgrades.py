"""What releases of the compiler side by side come to, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluate.paired import holm
from ..language import Text, phrase, sentences

LEVEL = 0.05  # of p after correction


def upgrades_said(found: Sequence[Mapping[str, Any]]) -> Text:
    """What the change of releases does, p after Holm's correction; "" where there is none.

    Parameters
    ----------
    found
        See `schema.Upgrade`.
    """
    if not found:
        return sentences()
    same = sum(one["same_logits"] for one in found)
    said = [
        phrase(
            "{same} of {all} comparisons have the same logits, to the bit.",
            same=same,
            all=len(found),
        )
    ]
    corrected = [float(p) for p in holm([one["p"] for one in found])]
    beyond = [(one, p) for one, p in zip(found, corrected) if p < LEVEL]
    said += [
        phrase(
            "{model} ({decoder}), {release} to {to}: {points:+.1f} points, corrected p {p:.2g}.",
            model=" ".join(
                part for part in (one["chip"], one["precision"].upper(), one["strategy"]) if part
            ),
            decoder=one["decoder"],
            release=one["release"],
            to=one["to"],
            points=100 * one["difference"],
            p=p,
        )
        for one, p in beyond
    ]
    if same < len(found) and not beyond:
        said.append(
            phrase(
                "No difference of readings is more than chance would bring: the smallest corrected "
                "p is {p:.2g}.",
                p=min(corrected),
            )
        )
    times = (one["predicted_latency_ms"] for one in found)
    shares = [100 * new / old for old, new in times if old and new]
    if shares:
        low, high = (f"{end(shares):.0f}" for end in (min, max))
        said.append(
            phrase(
                "Where a time is predicted, it becomes {low} % of what it was."
                if low == high
                else "Where a time is predicted, it becomes {low} to {high} % of what it was.",
                low=low,
                high=high,
            )
        )
    return sentences(*said)
