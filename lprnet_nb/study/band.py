"""The band of chance, known in advance: plates and draws that it takes to see a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluate.power import POWER, Spread, least_seen, plates_needed, spread
from ..language import Text, counted, phrase
from .cells import unpack
from .results import TIPS, outcomes

POINTS = (0.3, 0.5, 1.0)
DRAWS = (1, 3, 5, 10)
PAIR, BESIDE_FLOAT = phrase("two strategies"), phrase("a strategy and float")


def spreads(study: dict[str, Any]) -> dict[str, list[Spread]]:
    """Spreads of paired differences on all chips of a study, from its cross-fitted draws.

    Returns
    -------
    dict
        `PAIR`: of the pairs that judge the tips; `BESIDE_FLOAT`: of each of the
        strategies in them. Such that have fewer than two common draws are left out.
    """
    pairs = [pair for tip in TIPS for pair in tip.pairs]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    reference = unpack(study["float"]["bits"], study["float"]["images"])
    found: dict[str, list[Spread]] = {PAIR: [], BESIDE_FLOAT: []}
    for chip in dict.fromkeys(row["chip"] for row in study["rows"]):
        drawn = {name: outcomes(study, name, chip) for name in names}
        changes = [(PAIR, _changes(drawn[one], drawn[other])) for one, other in pairs] + [
            (BESIDE_FLOAT, _changes(draws, dict.fromkeys(draws, reference)))
            for draws in drawn.values()
        ]
        for what, change in changes:
            if len(change) > 1:
                found[what].append(spread(np.stack(change)))
    return {what: each for what, each in found.items() if each}


def _changes(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Differences on the draws that both have."""
    return [one[draw].astype(float) - other[draw] for draw in sorted(set(one) & set(other))]


def band(
    study: dict[str, Any], points: Sequence[float] = POINTS, draws: Sequence[int] = DRAWS
) -> list[dict[str, Any]]:
    """How many plates it takes to see so many points in so many draws, with a chance of 80 %.

    Every plate is read in every draw by both, so that the differences are paired.

    Returns
    -------
    list of dict
        ``compared, comparisons`` (how many spreads there are), ``points, draws`` and ``plates``:
        what suffices for half of the comparisons, None where no number does; ``most``: what
        suffices for nine of ten.
    """
    lines = []
    for what, each in spreads(study).items():
        for point in points:
            for count in draws:
                needed = [_needed(one, point / 100, count) for one in each]
                lines.append(
                    {
                        "compared": what,
                        "comparisons": len(each),
                        "points": point,
                        "draws": count,
                        "plates": _suffices(needed, 0.5),
                        "most": _suffices(needed, 0.9),
                    }
                )
    return lines


def seen(study: dict[str, Any]) -> dict[str, float]:
    """Points that half of the comparisons see with a chance of 80 %, as large as the study is."""
    plates, draws = study["float"]["images"], len(study["provenance"]["draws"])
    return {
        what: float(np.median([100 * least_seen(one.of_mean(plates, draws)) for one in each]))
        for what, each in spreads(study).items()
    }


def _needed(one: Spread, difference: float, draws: int) -> int | None:
    return plates_needed(lambda n: difference, lambda n: one.of_mean(n, draws))


def _suffices(needed: Sequence[int | None], part: float) -> int | None:
    ordered = sorted(needed, key=lambda count: (count is None, count))
    return ordered[int(np.ceil(part * len(ordered))) - 1]


def band_table(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`band`'s lines for reading: a row for each comparison and number of draws."""
    rows: dict[tuple, dict[str, Any]] = {}
    for line in lines:
        key = line["compared"], line["draws"]
        row = rows.setdefault(key, {"compared": key[0], "calibration draws": key[1]})
        row[f"{line['points']:g} points"] = _shown(line["plates"], line["most"])
    return list(rows.values())


def _shown(half: int | None, most: int | None) -> str:
    return " / ".join("∞" if count is None else f"{count:,}" for count in (half, most))


def band_said(study: dict[str, Any]) -> list[Text]:
    """What `band_table` shows, and what a study as large as this one can see."""
    read = phrase(
        "Plates that it takes to see a difference with a chance of {power:.0f} %: enough for half "
        "of the comparisons / for nine of ten; ∞ where the draws alone differ too much for any "
        "number of plates. Both read the same plates, calibrated by the same draws.",
        power=100 * POWER,
    )
    can = [
        phrase(
            "{plates} and {draws} show half of the differences between {compared} "
            "from {points:.1f} points on.",
            plates=counted(study["float"]["images"], "{count} plate", "{count} plates"),
            draws=counted(len(study["provenance"]["draws"]), "{count} draw", "{count} draws"),
            compared=what,
            points=points,
        )
        for what, points in seen(study).items()
    ]
    return [read, *can]
