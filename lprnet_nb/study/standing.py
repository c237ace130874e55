"""Where each strategy stands in the committed study, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..toolchain.strategies import STRATEGIES, recommended
from .cells import CROSS_FIT
from .cost import float_share
from .results import committed_study, summarize


def standings(chips: Sequence[str]) -> list[dict[str, Any]]:
    """What each strategy does, costs and reads.

    Returns
    -------
    list of dict
        In the registry's order: ``name``, ``about``, ``in_float`` (share of the
        multiply-accumulates), ``recommended`` (chips that it is shipped for) and ``exact_match``:
        by chip the mean, lowest and highest over calibration draws, None where it was not
        studied, or the tool's words where it refused.
    """
    study = committed_study()
    lines = {
        (line["strategy"], line["chip"]): line
        for line in (summarize(study) if study else [])
        if line["scheme"] == CROSS_FIT
    }
    best = {chip: recommended(chip).name for chip in chips}
    return [
        {
            "name": name,
            "about": strategy.about,
            "in_float": float_share(strategy),
            "recommended": [chip for chip in chips if best[chip] == name],
            "exact_match": {chip: _read(lines.get((name, chip))) for chip in chips},
        }
        for name, strategy in STRATEGIES.items()
    ]


def _read(line: dict[str, Any] | None) -> dict[str, Any] | None:
    if line is None:
        return None
    if "error" in line:
        return {"refused": line["error"]}
    return {key: line[key] for key in ("mean", "low", "high", "draws")}
