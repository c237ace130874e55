"""The study that comes with the repository: what it runs, and how it is made again.

``lprnet-nb study`` runs it; cells that are there are not run again, so a study that was stopped, or
that has got a new strategy, goes on where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cache import atomic_write, repository
from ..datasets.images import PlateImages
from ..model.weights import Weights
from ..toolchain.strategies import STRATEGIES, Strategy, strategy_named
from .study import Plan, run_study
from .study_details import company, models, sensitivity
from .study_results import study_text, write_recommendations

MAIN_CHIPS = ("BM1684X", "BM1684")
MORE_CHIPS = ("BM1688", "CV186X")
ON_MORE_CHIPS = ("kl", "mse", "mse-forked", "mse-forked-square", "mse-forked-in-context")
SLOW = {"search-threshold": 1, "search-qtable": 1, "kl-bc": 5}
CALIBRATED_ELSEWHERE = ("kl", "mse", "mse-forked")
LOOKED_INTO = "mse-forked"  # its roles and its batches


def full_plan(names: Sequence[str] | None = None) -> Plan:
    """What the study runs; all strategies of the registry unless some are named."""
    chosen = tuple(STRATEGIES.values()) if names is None else tuple(map(strategy_named, names))
    return Plan(chosen, MAIN_CHIPS, calibrated_within=CALIBRATED_ELSEWHERE,
                calibrated_on_generated=CALIBRATED_ELSEWHERE, fewer_draws=SLOW,
                more_chips={chip: ON_MORE_CHIPS for chip in MORE_CHIPS})


def complete(plan: Plan, plates: PlateImages, weights: Weights, looked_into: Strategy, *,
             workers: int = 2, progress: bool = True) -> dict[str, Any]:
    """A study with everything: cells, BModels, roles and company.

    Parameters
    ----------
    looked_into
        The strategy whose roles and batches are looked into.
    """
    made = run_study(plan, plates, weights, workers=workers, progress=progress)
    made["models"] = models(plan, plates, weights, images=4, progress=progress)
    made["sensitivity"] = sensitivity(plates, weights, plan.chips, looked_into, workers=workers,
                                      progress=progress)
    made["company"] = company(plates, weights, plan.chips, looked_into)
    return made


def write_full_study(path: Path, plates: PlateImages, weights: Weights, *, workers: int = 2
                     ) -> list[Path]:
    """Run the whole study; write it, and the recommendation of each chip with its evidence."""
    made = complete(full_plan(), plates, weights, STRATEGIES[LOOKED_INTO], workers=workers)
    return [atomic_write(path, study_text(made)),
            *write_recommendations(made, repository() / "data" / "models")]
