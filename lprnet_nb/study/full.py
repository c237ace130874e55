"""The study that comes with the repository: what it runs, and how it grows.

``lprnet-nb study`` runs it, a few strategies at a time if so asked, and puts what it finds into the
study's file. Cells that are there are not run again, so a study that was stopped, or that has got a
new strategy, goes on where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..datasets.images import PlateImages
from ..errors import DataError, ParameterError
from ..files import atomic_write
from ..measure.data import datasets_for
from ..measure.parameters import Asked, Parameters, check
from ..model.weights import Weights
from ..places import repository
from ..toolchain.strategies import GENERAL, LATER, STRATEGIES, Strategy
from .cells import Plan, run_study
from .details import company, models, sensitivity
from .results import read_study, study_text, write_recommendations

CHIPS = ("BM1684X", "BM1684")
MORE_CHIPS = ("BM1688", "CV186X")  # for the strategies that matter most
ON_MORE_CHIPS = ("kl", "mse", "mse-forked", "mse-forked-b4-square", "mse-forked-b4-context")
FEWER_DRAWS = {"search-threshold": 1, "search-qtable": 1, "kl-bc": 2}
CALIBRATED_ELSEWHERE = ("kl", "mse", "mse-forked", "mse-forked-b4-square")
LOOKED_INTO = "mse-forked"  # whose roles and batches are looked into
OF_OTHERS = ("kl", "mse", "max", "percentile9999", "aciq-gauss", "mse-we", "mse-asymmetric")
SAME = ("plates", "weights", "tpu_mlir", "decoder", "batch", "folds")


def full_plan(
    strategies: Sequence[Strategy] = (),
    chips: Sequence[str] = (),
    draws: int = 5,
    decoder: str = "greedy",
    release: str | None = None,
    calibrated_by: str | None = None,
) -> Plan:
    """What the study runs.

    Parameters
    ----------
    strategies
        Which; none for the whole registry.
    chips
        Chips that all of them run on; none for those of the study.
    draws
        How many draws, where a slow strategy does not get fewer.
    decoder
        How logits are read. With another than greedy, cells are cross-fitted only.
    release, calibrated_by
        See `Plan`.
    """
    chosen = tuple(strategies) or tuple(STRATEGIES.values())
    elsewhere = CALIBRATED_ELSEWHERE if decoder == "greedy" else ()
    return Plan(
        chosen,
        tuple(chips) or CHIPS,
        tuple(range(draws)),
        calibrated_within=elsewhere,
        calibrated_on_generated=elsewhere,
        fewer_draws=FEWER_DRAWS,
        decoder=decoder,
        more_chips={} if chips else dict.fromkeys(MORE_CHIPS, ON_MORE_CHIPS),
        release=release,
        calibrated_by=calibrated_by,
    )


def grow_study(
    path: Path,
    plan: Plan,
    plates: PlateImages,
    weights: Weights,
    *,
    simulated: int = 4,
) -> Path:
    """Run a plan and put what it finds into a study's file, made where it is not there.

    Parameters
    ----------
    simulated
        Images of each BModel that the chip simulator reads.

    Raises
    ------
    DataError
        When the file holds a study of other plates, weights or tools.
    EngineError
        See `study_details.models`.
    """
    made = run_study(plan, plates, weights)
    made["models"] = models(plan, plates, weights, images=simulated, progress=True)
    looked_into = plan.decoder == "greedy" and not plan.release and not weights.of.onnx
    if looked_into and any(s.name == LOOKED_INTO for s in plan.strategies):
        made["sensitivity"] = sensitivity(plates, weights, plan.chips, STRATEGIES[LOOKED_INTO])
        made["company"] = company(plates, weights, plan.chips, STRATEGIES[LOOKED_INTO])
    return atomic_write(path, study_text(merge(read_study(path), made) if path.exists() else made))


def grow_published(path: Path, **given: Any) -> Path:
    """`grow_study` on all published plates, with notebook parameters such as ``DRAWS=5``.

    Raises
    ------
    ParameterError
        For a wrong parameter, or more than one decoder.
    """
    p = check(DATA="published", WEIGHTS="published", IMAGES=0, **given)
    decoder = _decoder(p, given)
    data = datasets_for(p)
    release, calibrated_by = releases_of(p)
    plan = full_plan(
        [_on_all_chips(asked) for asked in p.strategies] if "STRATEGIES" in given else (),
        p.chips if "CHIPS" in given else (),
        p.draws,
        decoder,
        release,
        calibrated_by,
    )
    return grow_study(path, plan, data.plates, data.weights)


def grow_own(path: Path, **given: Any) -> Path:
    """`grow_study` of a user's ``NETWORK`` on labelled plates of ``DATA``, all unless ``IMAGES``.

    Strategies are those that any network has, the chips those of the study. Every plate is judged
    by models that were calibrated on others.

    Raises
    ------
    DataError
        When the network's output is not decoded to texts, or the plates have no labels.
    ParameterError
        For a wrong parameter, more than one decoder, or a release of the compiler.
    """
    p = check(**{"IMAGES": 0} | given)
    if p.tpu_mlir:
        raise ParameterError(
            f"TPU_MLIR={','.join(p.tpu_mlir)}: of a network of one's own the workbook's release "
            "alone is studied. Leave it out."
        )
    # Calibration images are drawn here, outside each fold: nothing is to be noted of others.
    decoder, data = _decoder(p, given), datasets_for(replace(p, precisions=("fp32",)))
    if data.weights.of.interface.kind != "ctc":
        raise DataError(
            f"network {data.weights.of.name} gives logits that are not decoded to texts, and a "
            "study counts texts. `lprnet-nb compare` holds its BModels against float."
        )
    outside = len(data.plates) // 2  # of the fold that is judged
    usual = [STRATEGIES[name] for name in OF_OTHERS] + list(GENERAL.values())
    chosen = [_on_all_chips(one) for one in p.strategies] if "STRATEGIES" in given else usual
    plan = Plan(
        tuple(strategy.cut_to(outside) for strategy in chosen),
        p.chips if "CHIPS" in given else CHIPS,
        tuple(range(p.draws)),
        decoder=decoder,
    )
    return grow_study(path, plan, data.plates, data.weights)


def _decoder(parameters: Parameters, given: dict[str, Any]) -> str:
    decoders = parameters.decoders if "DECODERS" in given else ("greedy",)
    if len(decoders) != 1:
        raise ParameterError(f"decoders {', '.join(decoders)}: a study reads with one.")
    return decoders[0]


def releases_of(parameters: Parameters) -> tuple[str | None, str | None]:
    """Who quantizes and who chooses thresholds, as `Plan` takes them.

    Raises
    ------
    ParameterError
        For several releases: a study is of one.
    """
    if len(parameters.tpu_mlir) > 1:
        raise ParameterError(
            f"TPU_MLIR={','.join(parameters.tpu_mlir)}: a study quantizes with one release at a "
            "time; `lprnet-nb study --releases` holds releases against each other."
        )
    release = next(iter(parameters.tpu_mlir), None)
    return release, release if parameters.calibration == "release" else None


def _on_all_chips(asked: Asked) -> Strategy:
    first, *others = asked.by_chip.values()
    if not isinstance(first, Strategy):
        raise ParameterError(
            f"strategy {asked.name!r} is TPU-NNTC's, and a study quantizes with TPU-MLIR."
        )
    if any(other != first for other in others):
        raise ParameterError(
            f"strategy {asked.name!r} depends on the chip, and a study runs a strategy on all of "
            f"them. Name one of {', '.join(STRATEGIES)}, or a strategy's JSON file."
        )
    return first


def recommend_from(path: Path, folder: Path | None = None) -> list[Path]:
    """Write ``<CHIP>/recommended.json`` as a study finds it, below the models' folder.

    Of a user's network below a folder of the study's name, beside it: a strategy by its path.
    """
    study = read_study(path)
    own = path.with_suffix("") if "network" in study["provenance"] else None
    return write_recommendations(study, folder or own or repository() / "data" / "models")


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A study with the rows of another; where both have a row, the new one's.

    Raises
    ------
    DataError
        When the two are not of the same plates, weights, tools and folds.
    """
    before, after = old["provenance"], new["provenance"]
    for key in SAME:
        if before[key] != after[key]:
            raise DataError(
                f"these results are of {key} {after[key]}, the study is of "
                f"{before[key]}. Write them into a file of their own."
            )
    # A strategy that is not what it was takes its old rows with it.
    changed = {
        name
        for name, fields in after["strategies"].items()
        if name in before["strategies"] and _decides(fields) != _decides(before["strategies"][name])
    }
    kept = {
        **old,
        **{
            key: [r for r in old.get(key, []) if r["strategy"] not in changed]
            for key in ("rows", "models")
        },
    }
    refused = {(r["strategy"], r["chip"], r["scheme"], "error" in r) for r in new["rows"]}
    rows = [
        r
        for r in kept["rows"]
        if (r["strategy"], r["chip"], r["scheme"], "error" not in r) not in refused
    ]
    merged = {
        **old,
        **new,
        "rows": _joined(
            rows, new["rows"], lambda r: (r["strategy"], r["chip"], r["scheme"], r.get("draw"))
        ),
        "models": _joined(
            kept["models"], new.get("models", []), lambda r: (r["strategy"], r["chip"])
        ),
    }
    merged["provenance"] = {
        **before,
        **after,
        "draws": sorted({*before["draws"], *after["draws"]}),
        "strategies": {**before["strategies"], **after["strategies"]},
    }
    return merged


def _decides(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that decide a result: the description and defaults of newer fields do not."""
    return {
        key: value
        for key, value in fields.items()
        if key != "about" and value and value != LATER.get(key)
    }


def _joined(
    old: Sequence[dict[str, Any]],
    new: Sequence[dict[str, Any]],
    key: Callable[[dict[str, Any]], tuple],
) -> list[dict[str, Any]]:
    found = {key(row): row for row in old}
    found |= {key(row): row for row in new}
    # Rows of one strategy stay together, in the order in which strategies came.
    names = list(dict.fromkeys(row["strategy"] for row in found.values()))
    return sorted(found.values(), key=lambda row: names.index(row["strategy"]))
