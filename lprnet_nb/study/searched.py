"""What searches found: their file, the front beside the hand-made strategies, and what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..errors import DataError, LprnetError, ParameterError
from ..evaluate.paired import mcnemar_exact
from ..files import atomic_write
from ..language import Text, counted, phrase
from ..measure.data import datasets_for
from ..measure.parameters import NETWORK, OWN_STRATEGIES, check
from ..model.trace import trace_model
from ..model.weights import Weights
from ..places import repository
from ..toolchain.chips import parse_chip
from ..toolchain.compile import compile_bmodel
from ..toolchain.environment import compiler
from ..toolchain.strategies import STRATEGIES, Strategy, make_strategy, recommended
from .cells import CROSS_FIT, Plan, float_texts, pack, result_rows, run_cells, unpack
from .details import proof
from .results import interval, read_study, study_text, summarize, verdict
from .search import (
    CALIBRATION,
    FOLDS,
    METHODS,
    NAME,
    SHARE,
    Costs,
    Search,
    check_plates,
    levels,
    plain,
    search_chip,
    shipped_split,
)

SAME = ("plates", "weights", "tpu_mlir", "calibration", "folds", "share", "methods")
SIMULATED = 4  # plates that the chip simulator reads with what is shipped


def grow_search(
    path: Path,
    chip: str,
    budget: float | None = None,
    draws: int = 1,
    save: Path | None = None,
    **given: Any,
) -> Path:
    """Search on a chip and put what was found into a file, made where it is not there.

    Parameters
    ----------
    path
        The file; searches of other chips that it holds stay.
    chip
        One of `chips.CHIPS`.
    budget
        Milliseconds that the compiler may predict; on a chip of which it predicts none, the part of
        the work that may stay in float. None for what the chip's recommended strategy costs, which
        a user's network has not.
    draws
        Calibration draws whose folds are searched on and judge one another.
    save
        File that gets the strategy to ship, for ``--strategies FILE``.
    given
        Notebook parameters, such as ``DATA="FOLDER"``; the published plates and weights by default,
        or the ``NETWORK`` of a user with its own.

    Raises
    ------
    ParameterError
        For too few plates, a budget that nothing meets, or a network that reads no texts.
    DataError
        When the file holds searches of other plates, weights or tools.
    """
    chip = parse_chip(chip)
    if not 1 <= draws <= 100:
        raise ParameterError(f"draws {draws}: name 1 to 100.")
    usual = {} if "NETWORK" in given else {"DATA": "published", "WEIGHTS": "published"}
    p = check(**{**usual, "IMAGES": 0, **given})
    data = datasets_for(p)
    weights = data.weights
    if weights.of.interface.kind != "ctc":
        raise ParameterError(
            f"a search judges texts, and network {weights.of.name} reads none: its output is of "
            f"kind {weights.of.interface.kind!r}."
        )
    check_plates(data.plates)
    facts = _provenance(data.plates, weights)
    old = read_search(path) if path.exists() else None
    if old is not None:
        _check_same(path, old["provenance"], facts)
    costs = Costs(weights, data.plates, chip)
    wanted = _default_budget(costs) if budget is None else budget
    if not (math.isfinite(wanted) and wanted >= 0):
        raise ParameterError(f"a budget of {wanted}: name {costs.unit}, 0 or more.")
    budgets = levels(costs, wanted)
    made = search_chip(weights, data.plates, chip, budgets, draws)
    made["beside"] = beside(weights, data.plates, chip, draws)
    made["shipped"][-1]["proof"] = _proof(weights, data.plates, chip, budgets)
    made["units"] = [{"chip": chip, "unit": costs.unit}]
    right = np.array(float_texts(data.plates, weights)) == np.array(data.plates.known_labels)
    whole = {
        "format": 1,
        "provenance": facts,
        "float": {"images": len(right), "correct": int(right.sum()), "bits": pack(right)},
        **{key: [*_others(old, key, chip), *made[key]] for key in made},
    }
    atomic_write(path, study_text(whole))
    if save is not None:
        atomic_write(save, strategy_file(whole, chip))
    return path


def _provenance(plates: PlateImages, weights: Weights) -> dict[str, Any]:
    return {
        "plates": {"name": plates.name, "images": len(plates), "digest": plates.digest},
        "weights": {"name": weights.name, "digest": weights.digest},
        "tpu_mlir": compiler().version,
        "backend": "emulator",
        "decoder": "greedy",
        "batch": 1,
        "calibration": CALIBRATION,
        "folds": FOLDS,
        "share": SHARE,
        "methods": list(METHODS),
    }


def _check_same(path: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in SAME:
        if before.get(key) != after[key]:
            raise DataError(
                f"{path} holds searches of {key} {before.get(key)}, this one is of {after[key]}. "
                "Write it into a file of its own."
            )


def _others(old: dict[str, Any] | None, key: str, chip: str) -> Iterator[dict[str, Any]]:
    return (row for row in (old or {}).get(key, []) if row["chip"] != chip)


def _held_against(weights: Weights, chip: str) -> Strategy:
    """The chip's recommended strategy; of a user's network what it gets where none is named."""
    return recommended(chip) if weights.of.name == NETWORK else STRATEGIES[OWN_STRATEGIES[0]]


def _default_budget(costs: Costs) -> float:
    if costs.weights.of.name != NETWORK:
        least = min(costs.of(plain(form)) for form in costs.weights.of.forms)
        raise ParameterError(
            f"network {costs.weights.of.name} has no recommended strategy whose cost would be the "
            f"budget. Name one: all in INT8 it costs {least:g} {costs.unit} on {costs.chip}."
        )
    try:
        return costs.of(recommended(costs.chip))
    except LprnetError as error:
        raise ParameterError(
            f"{costs.chip}'s recommended strategy, whose cost is the budget where none is named, "
            f"does not fit this network: {error} Name a budget."
        ) from error


def _proof(
    weights: Weights, plates: PlateImages, chip: str, budgets: list[float]
) -> dict[str, Any]:
    """That the BModel of the strategy to ship is what was searched, see `details.proof`."""
    search = Search(weights, plates, chip, shipped_split(len(plates)), max(budgets))
    search.run()
    strategy = search.best(max(budgets)).strategy
    model = compile_bmodel(
        trace_model(weights, form=strategy.form),
        chip,
        "int8",
        strategy=strategy,
        table=search.table(strategy),
    )
    return proof(model, search.folder(strategy), search.lesson, SIMULATED)


def read_search(path: Path) -> dict[str, Any]:
    """Read a file of searches.

    Raises
    ------
    DataError
        When it cannot be read or is something else.
    """
    found = read_study(path)
    missing = {"provenance", "points", "shipped", "units"} - found.keys()
    if missing:
        raise DataError(f"{path} holds no searches: {min(missing)!r} is missing.")
    return found


def vendors() -> dict[str, Any] | None:
    """The newest study of the vendor's own searches that comes with the repository, or None."""
    found = sorted((repository() / "data" / "studies" / "vendor-search").glob("*.json"))
    return read_study(found[-1]) if found else None


def committed_search() -> dict[str, Any] | None:
    """The newest searches that come with the repository, or None."""
    found = sorted((repository() / "data" / "studies" / "search").glob("*.json"))
    return read_search(found[-1]) if found else None


def strategy_file(found: dict[str, Any], chip: str) -> str:
    """The strategy to ship on a chip, with its evidence, as ``--strategies`` takes it."""
    shipped = [row for row in found["shipped"] if row["chip"] == chip][-1]
    judged = [line for line in lines(found) if line["chip"] == chip][-1]
    named = {**shipped["strategy"], "name": f"{NAME}-{chip.lower()}"}
    strategy = make_strategy(**named).model_dump(mode="json")
    evidence = {
        **{key: value for key, value in shipped.items() if key not in ("strategy", "chip")},
        "judged": judged,
        **found["provenance"],
    }
    return json.dumps({"strategy": strategy, "evidence": evidence}, indent=1, ensure_ascii=False)


def lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One line a chip and budget: what was found without the plates that judge it.

    Returns
    -------
    list of dict
        ``chip, unit, budget, cost`` (mean of the folds), ``draws``, ``mean, low, high`` and
        ``interval`` of exact match as `results.summarize` has them.
    """
    units = {row["chip"]: row["unit"] for row in found["units"]}
    made = []
    for chip, budget in dict.fromkeys((p["chip"], p["budget"]) for p in found["points"]):
        points = [p for p in found["points"] if (p["chip"], p["budget"]) == (chip, budget)]
        right = np.stack([unpack(p["bits"], p["images"]) for p in points])
        rates = right.mean(1)
        made.append(
            {
                "chip": chip,
                "unit": units[chip],
                "budget": budget,
                "cost": float(np.mean([p["cost"] for p in points])),
                "draws": len(points),
                "mean": float(rates.mean()),
                "low": float(rates.min()),
                "high": float(rates.max()),
                "interval": list(interval(right)),
            }
        )
    return made


def hand_made(found: dict[str, Any], *studies: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Strategies of studies of the same plates and weights: by hand, or by the vendor's searches.

    Returns
    -------
    list of dict
        `results.summarize`'s lines with ``cost`` in the unit of the searches. Left out are such
        that were not searched on their chip, and those of which the cost is not known: what the
        vendor's search leaves in float, where no time is predicted.
    """
    units = {row["chip"]: row["unit"] for row in found["units"]}
    made = []
    for study in studies:
        if study is None or any(
            study["provenance"][key] != found["provenance"][key] for key in ("plates", "weights")
        ):
            continue
        described = study["provenance"]["strategies"]
        for line in summarize(study):
            if line["scheme"] == CROSS_FIT and "mean" in line and line["chip"] in units:
                timed = units[line["chip"]] == "ms"
                chooses = described.get(line["strategy"], {}).get("search") == "search_qtable"
                cost = line["latency_ms"] if timed else None if chooses else line["in_float"]
                if cost is not None:
                    made.append({**line, "unit": units[line["chip"]], "cost": cost})
    return made


def beside(weights: Weights, plates: PlateImages, chip: str, draws: int) -> list[dict[str, Any]]:
    """The strategy to beat on the folds of the searches, calibrated on their plates.

    The study's own rows are of two folds, so that each plate is read there by a model that was
    calibrated on other plates than the search that it is held against.

    Returns
    -------
    list of dict
        `cells.result_rows`.
    """
    strategy = _held_against(weights, chip).cut_to(len(plates) * (FOLDS - 1) // FOLDS)
    plan = Plan((strategy,), (chip,), tuple(range(draws)), FOLDS)
    return result_rows(run_cells(plan, plates, weights), plates)


def against(found: dict[str, Any], chip: str) -> dict[str, Any] | None:
    """The point at the whole budget against the recommended strategy, see `beside`.

    Returns
    -------
    dict or None
        ``strategy``, ``difference`` and ``interval`` of exact match, ``draws``, ``only_searched``
        and ``only_other`` plates, summed over draws, ``p`` (the largest of the draws' exact McNemar
        tests), and whether the gain ``holds``, see `results.verdict`; None where there is nothing
        to compare with.
    """
    others = [row for row in found.get("beside", []) if row["chip"] == chip and "bits" in row]
    theirs = {row["draw"]: unpack(row["bits"], row["images"]) for row in others}
    points = [p for p in found["points"] if p["chip"] == chip]
    top = max((p["budget"] for p in points), default=None)
    ours = {p["draw"]: unpack(p["bits"], p["images"]) for p in points if p["budget"] == top}
    common = sorted(set(ours) & set(theirs))
    if not common:
        return None
    change = np.stack([ours[draw].astype(float) - theirs[draw] for draw in common])
    tests = [mcnemar_exact(ours[draw], theirs[draw]) for draw in common]
    ends = interval(change)
    return {
        "chip": chip,
        "strategy": others[0]["strategy"],
        "difference": float(change.mean()),
        "interval": list(ends),
        "draws": len(common),
        "only_searched": sum(test.b for test in tests),
        "only_other": sum(test.c for test in tests),
        "p": max(test.p for test in tests),
        "verdict": verdict(ends, len(common)),
    }


def said(found: dict[str, Any]) -> list[Text]:
    """What the searches found, and whether it changes what is recommended, by chip."""
    texts = []
    for chip in dict.fromkeys(row["chip"] for row in found["units"]):
        line = [line for line in lines(found) if line["chip"] == chip][-1]
        texts.append(
            phrase(
                "{chip}: within {budget:g} {unit}, the search reads {mean:.4f} (95 % interval "
                "{low:.3f} to {high:.3f}) on plates that it has not seen.",
                chip=chip,
                budget=line["budget"],
                unit=line["unit"],
                mean=line["mean"],
                low=line["interval"][0],
                high=line["interval"][1],
            )
        )
        other = against(found, chip)
        if other is not None:
            texts.append(_compared(other))
    return texts


def _compared(other: dict[str, Any]) -> Text:
    stays = other["verdict"] != "holds"
    return phrase(
        "{chip}: {points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, {draws}, "
        "p {p:.2f}) against {strategy}, which stays recommended: no gain beyond chance was seen."
        if stays
        else "{chip}: {points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, {draws}, "
        "p {p:.2f}) against {strategy}: that is beyond chance.",
        chip=other["chip"],
        points=100 * other["difference"],
        low=100 * other["interval"][0],
        high=100 * other["interval"][1],
        draws=counted(other["draws"], "{count} draw", "{count} draws"),
        p=other["p"],
        strategy=other["strategy"],
    )
