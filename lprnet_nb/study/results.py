"""What a study says: means over draws, paired tests, tips, and the strategy to ship."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.splits import folds
from ..errors import DataError
from ..evaluate.paired import holm, mcnemar_exact
from ..files import atomic_write, read_bytes
from ..language import Text, phrase
from ..places import repository
from ..toolchain.strategies import Strategy
from .cells import CROSS_FIT, unpack
from .cost import float_share


def read_study(path: Path) -> dict[str, Any]:
    """Read a study's JSON file.

    Raises
    ------
    DataError
        When it cannot be read or is of another format.
    """
    try:
        study = json.loads(read_bytes(path))
    except (OSError, ValueError) as error:
        raise DataError(f"study {path} cannot be read: {error}.") from error
    if study.get("format") != 1:
        raise DataError(f"study {path} has format {study.get('format')!r}, this version reads 1.")
    return study


def study_text(study: dict[str, Any]) -> str:
    """A study as JSON, a row a line, so that a diff shows which rows are new."""
    parts = []
    for key, value in study.items():
        lines = (
            [json.dumps(item, ensure_ascii=False) for item in value]
            if isinstance(value, list)
            else None
        )
        parts.append(
            f"{json.dumps(key)}: "
            + (
                json.dumps(value, ensure_ascii=False)
                if lines is None
                else "[\n" + ",\n".join(lines) + "\n]"
            )
        )
    return "{" + ",\n".join(parts) + "}\n"


def committed_study(decoder: str = "greedy") -> dict[str, Any] | None:
    """The newest study of a decoder that comes with the repository, or None where none does."""
    found = _committed(decoder)
    return found[1] if found else None


def committed_path(decoder: str = "greedy") -> Path | None:
    """File of `committed_study`."""
    found = _committed(decoder)
    return found[0] if found else None


def _committed(decoder: str) -> tuple[Path, dict[str, Any]] | None:
    for path in sorted((repository() / "data" / "studies").glob("*.json"), reverse=True):
        study = read_study(path)
        if study["provenance"]["decoder"] == decoder:
            return path, study
    return None


def outcomes(
    study: dict[str, Any], strategy: str, chip: str, scheme: str = CROSS_FIT
) -> dict[int, np.ndarray]:
    """Which plates were read right, bool ``[N]`` by draw; empty where the strategy was refused."""
    return {
        row["draw"]: unpack(row["bits"], row["images"])
        for row in study["rows"]
        if (row["strategy"], row["chip"], row["scheme"]) == (strategy, chip, scheme)
        and "bits" in row
    }


def summarize(study: dict[str, Any], *, baseline: str = "kl") -> list[dict[str, Any]]:
    """One line per strategy, chip and scheme: accuracy over draws, and paired tests.

    Returns
    -------
    list of dict
        ``mean, low, high`` of exact match over draws; ``interval``, 95 % for the mean by resampling
        draws and images; ``p_float`` and ``p_baseline``, the largest p of the draws' exact McNemar
        tests (against float; against the baseline calibrated with the same draw), corrected by
        Holm for all tests of that kind in the table; ``worse_draws``, draws that are
        significantly below float after the correction. Refused settings carry ``error``.
    """
    reference = unpack(study["float"]["bits"], study["float"]["images"])
    lines, against_float, against_baseline = [], [], []
    keys = dict.fromkeys((r["strategy"], r["chip"], r["scheme"]) for r in study["rows"])
    latency, shares = latencies(study), float_shares(study)
    for strategy, chip, scheme in keys:
        draws = outcomes(study, strategy, chip, scheme)
        line: dict[str, Any] = {
            "strategy": strategy,
            "chip": chip,
            "scheme": scheme,
            "draws": len(draws),
        }
        lines.append(line)
        if not draws:
            here = (strategy, chip, scheme)
            line["error"] = next(
                r["error"]
                for r in study["rows"]
                if "error" in r and (r["strategy"], r["chip"], r["scheme"]) == here
            )
            continue
        rates = [right.mean() for right in draws.values()]
        line.update(
            mean=float(np.mean(rates)),
            low=float(min(rates)),
            high=float(max(rates)),
            interval=list(interval(np.stack(list(draws.values())))),
            latency_ms=latency.get((strategy, chip)),
            in_float=shares.get(strategy),
        )
        against_float += [(line, mcnemar_exact(right, reference)) for right in draws.values()]
        other = outcomes(study, baseline, chip, scheme) if strategy != baseline else {}
        against_baseline += [(line, mcnemar_exact(draws[d], other[d])) for d in draws if d in other]
    for name, tests in (("p_float", against_float), ("p_baseline", against_baseline)):
        for (line, test), p in zip(tests, holm([test.p for _, test in tests])):
            line[name] = max(float(p), line.get(name, 0.0))
            if name == "p_float" and p < LEVEL and test.b < test.c:
                line["worse_draws"] = line.get("worse_draws", 0) + 1
    return lines


def difference(
    study: dict[str, Any], strategy: str, baseline: str, chip: str, *, scheme: str = CROSS_FIT
) -> dict[str, Any] | None:
    """Exact match of a strategy minus a baseline's over their common draws, with an interval.

    Parameters
    ----------
    scheme
        Where the strategy's calibration images come from; the baseline's always lie outside the
        fold.

    Returns
    -------
    dict or None
        ``difference`` and ``interval`` (95 %, draws and images resampled), ``draws``,
        ``baseline_spread`` (largest minus smallest exact match of the baseline's draws); None
        where either was refused or not run.
    """
    ours, theirs = outcomes(study, strategy, chip, scheme), outcomes(study, baseline, chip)
    common = sorted(set(ours) & set(theirs))
    if not common:
        return None
    change = np.stack([ours[d].astype(float) - theirs[d] for d in common])
    rates = [theirs[d].mean() for d in common]
    return {
        "difference": float(change.mean()),
        "interval": list(interval(change)),
        "draws": len(common),
        "baseline_spread": float(max(rates) - min(rates)),
    }


def interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean over ``[draws, images]``, both resampled."""
    counts, weights = _resampled(*values.shape, resamples)
    means = ((counts @ values.T.astype(float)) * weights).sum(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


@lru_cache(4)
def _resampled(draws: int, images: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each image and each draw enters a resample, in parts of one."""
    # A matrix product instead of an index per value.
    chosen = np.random.default_rng(0)
    return (
        chosen.multinomial(images, np.full(images, 1 / images), resamples) / images,
        chosen.multinomial(draws, np.full(draws, 1 / draws), resamples) / draws,
    )


@dataclass(frozen=True)
class Tip:
    """A piece of advice, and the strategies that judge it.

    Parameters
    ----------
    title
        What it says.
    pairs
        ``(with the advice, without)``.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]


TIPS: tuple[Tip, ...] = (
    Tip(phrase("calibrate on RGB (bgr2rgb)"), (("mse-rgb", "mse"), ("kl-rgb", "kl"))),
    Tip(phrase("fewer calibration images (20)"), (("mse-20", "mse"), ("kl-20", "kl"))),
    Tip(phrase("more calibration images (450)"), (("mse-450", "mse"), ("kl-450", "kl"))),
    Tip(phrase("first and last layer in float"), (("mse-in-out", "mse"), ("kl-in-out", "kl"))),
    Tip(phrase("another threshold method (mse)"), (("mse", "kl"),)),
    Tip(
        phrase("weight equalization"),
        (("mse-we", "mse"), ("kl-we", "kl"), ("mse-forked-we", "mse-forked")),
    ),
    Tip(phrase("bias correction"), (("kl-bc", "kl"),)),
    Tip(phrase("zero points on activations (asymmetric)"), (("mse-asymmetric", "mse"),)),
    Tip(phrase("uint8 images, preprocessing in the model"), (("mse-uint8", "mse"),)),
    Tip(phrase("the whole global context in float"), (("mse-context", "mse"),)),
    Tip(phrase("a convolution of their own for pooled channels"), (("mse-forked", "mse"),)),
    Tip(
        phrase("the first layer and the context in float, once forked"),
        (("mse-forked-in-context", "mse-forked"),),
    ),
    Tip(
        phrase("the first block and the context's squares in float, once forked"),
        (("mse-forked-b4-square", "mse-forked"),),
    ),
    Tip(phrase("quantization-aware training"), (("qat", "mse-forked"),)),
)


OBVIOUS = 0.005  # a gain that anyone would call one: 5 plates of 1,000
ENOUGH_DRAWS = 3  # below it the spread of draws is a guess
LEVEL = 0.05
IN_FLOAT = 0.1  # of the multiply-accumulates; a BM1684 does an eighth as many a second in float
SLOWER = 1.25  # predicted time that a recommendation may take, of the all-INT8 model's


def verdict(interval: Sequence[float], draws: int) -> str:
    """What an interval of a gain says: "holds", "does not hold" or "cannot be told".

    The one rule for every tip: it holds where the whole interval lies above zero, and does not
    where the interval lies below `OBVIOUS`, since whatever gain there may be is then smaller than
    what a tip promises. Everything else cannot be told, and nothing can on fewer than
    `ENOUGH_DRAWS` draws, whose spread an interval does not know.

    Examples
    --------
    >>> verdict((0.002, 0.02), 5), verdict((-0.01, 0.004), 5), verdict((0.0, 0.0), 1)
    ('holds', 'does not hold', 'cannot be told')
    """
    low, high = interval
    if draws < ENOUGH_DRAWS:
        return "cannot be told"
    return "holds" if low > 0 else "does not hold" if high < OBVIOUS else "cannot be told"


def rule() -> Text:
    """`verdict`'s rule in a sentence."""
    return phrase(
        "A tip holds where the 95 % interval of its gain lies above zero; it does not hold where "
        "the interval lies below {points:g} points, so that no obvious gain is left; everything "
        "else cannot be told, and nothing can on fewer than {draws} draws.",
        points=100 * OBVIOUS,
        draws=ENOUGH_DRAWS,
    )


def verdicts(study: dict[str, Any], tips: Sequence[Tip] = TIPS) -> list[dict[str, Any]]:
    """One line per tip, pair and chip: `difference`'s fields and the `verdict`."""
    lines = []
    chips = dict.fromkeys(row["chip"] for row in study["rows"])
    for tip in tips:
        for strategy, baseline in tip.pairs:
            for chip in chips:
                found = difference(study, strategy, baseline, chip)
                if found is None:
                    continue
                lines.append(
                    {
                        "tip": tip.title,
                        "strategy": strategy,
                        "baseline": baseline,
                        "chip": chip,
                        **found,
                        "verdict": verdict(found["interval"], found["draws"]),
                    }
                )
    return lines


def origins(study: dict[str, Any]) -> list[dict[str, Any]]:
    """What other calibration images change: those that are judged, or generated plates.

    Returns
    -------
    list of dict
        `difference`'s fields against the same strategy calibrated outside the fold, with
        ``strategy, chip, scheme`` and ``mean`` of the scheme.
    """
    lines = []
    for line in summarize(study):
        if line["scheme"] == CROSS_FIT or "mean" not in line:
            continue
        name, chip, scheme = line["strategy"], line["chip"], line["scheme"]
        found = difference(study, name, name, chip, scheme=scheme)
        if found is not None:
            lines.append(
                {"strategy": name, "chip": chip, "scheme": scheme, "mean": line["mean"], **found}
            )
    return lines


def ranked(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`summarize`'s lines, the best strategy first: by the highest mean that it has on any chip.

    Strategies calibrated elsewhere than outside the fold come last, refused ones after them.
    """
    best: dict[tuple[str, str], float] = {}
    for line in lines:
        key = line["strategy"], line["scheme"]
        best[key] = max(best.get(key, -1.0), line.get("mean", -1.0))
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    return sorted(
        lines,
        key=lambda line: (
            line["scheme"] != CROSS_FIT,
            -best[line["strategy"], line["scheme"]],
            line["strategy"],
            line["scheme"],
            chips.index(line["chip"]),
        ),
    )


def recommendations(study: dict[str, Any]) -> list[dict[str, Any]]:
    """The strategy to ship by chip, and what choosing it on these images is worth.

    The highest mean over draws among those with all draws, float input, a BModel that compiles and
    is not predicted to take more than `SLOWER` times the published form all in INT8 (where no time
    is predicted: that does not leave more than `IN_FLOAT` of the work in float), and no draw
    significantly below float (McNemar's exact test, not corrected, so as to exclude rather one too
    many). Equal means go to the shorter predicted time.

    Returns
    -------
    list of dict
        The chosen line of `summarize` by chip; ``p_lowest``, the smallest p of its draws against
        float; ``unbiased``, see `nested`.
    """
    lines = {
        (line["strategy"], line["chip"]): line
        for line in summarize(study)
        if line["scheme"] == CROSS_FIT
    }
    found = []
    for chip in dict.fromkeys(chip for _, chip in lines):
        names, right = candidates(study, chip)
        reference = unpack(study["float"]["bits"], study["float"]["images"])
        chosen = _choose(right, reference)
        if chosen is None:
            continue
        best = lines[names[chosen], chip]
        p = min(mcnemar_exact(draw, reference).p for draw in right[chosen])
        found.append(
            {
                "chip": chip,
                **{
                    key: best.get(key)
                    for key in (
                        "strategy",
                        "draws",
                        "mean",
                        "low",
                        "high",
                        "interval",
                        "latency_ms",
                        "in_float",
                    )
                },
                "p_lowest": p,
                "unbiased": nested(study, chip),
            }
        )
    return found


def candidates(study: dict[str, Any], chip: str) -> tuple[list[str], np.ndarray]:
    """Strategies of a chip that could be shipped, the fastest first, and which plates they read.

    Returns
    -------
    names : list of str
    right : bool ``[strategies, draws, images]``
    """
    refused = {(r["strategy"], r["chip"]) for r in study.get("models", []) if "error" in r}
    latency = latencies(study)
    described = study["provenance"].get("strategies", {})
    names = [
        name
        for name in dict.fromkeys(r["strategy"] for r in study["rows"])
        if (name, chip) not in refused and not described.get(name, {}).get("fuse_preprocess")
    ]
    found = {name: outcomes(study, name, chip) for name in names}
    most = max((len(draws) for draws in found.values()), default=0)
    plain, shares = latency.get(("mse", chip)), float_shares(study)
    names = [
        name
        for name in names
        if most
        and len(found[name]) == most
        and (
            latency.get((name, chip), 0) <= SLOWER * plain
            if plain
            else shares.get(name, 1 if name in described else 0) <= IN_FLOAT
        )
    ]
    names.sort(key=lambda name: (latency.get((name, chip), 0), shares.get(name, 0)))
    return names, np.array([[found[name][draw] for draw in sorted(found[name])] for name in names])


def _choose(right: np.ndarray, reference: np.ndarray) -> int | None:
    """Index of the strategy with the highest mean that is on no draw significantly below float."""
    if not len(right):
        return None
    # Equal means go to the first; rounding makes means of equal counts equal.
    for index in np.argsort(-right.sum((1, 2)), kind="stable"):
        tests = (mcnemar_exact(draw, reference) for draw in right[index])
        if not any(test.p < LEVEL and test.b < test.c for test in tests):
            return int(index)
    return None


def nested(
    study: dict[str, Any], chip: str, *, parts: int = 5, repeats: int = 10
) -> dict[str, Any]:
    """What a strategy reads that was chosen on other images than it is judged on.

    The images are cut into `parts`; `recommendations`' rule chooses on all parts but one, its
    choice is judged on that one, in every draw, and so in turn for each part. The best of many,
    judged on the images that made it the best, looks better than it is; this does not.

    Returns
    -------
    dict
        ``mean`` over draws and repeats, ``low`` and ``high`` of the draws' means, ``chosen``: how
        often each strategy was, in parts of one; empty where nothing could be chosen.
    """
    names, right = candidates(study, chip)
    reference = unpack(study["float"]["bits"], study["float"]["images"])
    judged = np.zeros((repeats, *right.shape[1:]))
    count: dict[str, int] = {}
    for repeat in range(repeats):
        for part in folds(len(reference), parts, repeat):
            outside = np.setdiff1d(np.arange(len(reference)), part)
            index = _choose(right[:, :, outside], reference[outside]) if names else None
            if index is None:
                return {}
            judged[repeat][:, part] = right[index][:, part]
            count[names[index]] = count.get(names[index], 0) + 1
    by_draw = judged.mean((0, 2))
    chosen = sorted(count.items(), key=lambda item: -item[1])
    return {
        "mean": float(by_draw.mean()),
        "low": float(by_draw.min()),
        "high": float(by_draw.max()),
        "parts": parts,
        "repeats": repeats,
        "chosen": {name: number / (parts * repeats) for name, number in chosen},
    }


def float_shares(study: dict[str, Any]) -> dict[str, float]:
    """Part of the work that each strategy leaves in float: of a user's network the most seen.

    Of LPRNet, those that `study.cost.float_share` knows.
    """
    if "network" in study["provenance"]:
        most: dict[str, float] = {}
        for row in study.get("models", []):
            most[row["strategy"]] = max(most.get(row["strategy"], 0), row.get("in_float", 0))
        return most
    shares = {
        name: float_share(Strategy(**fields))
        for name, fields in study["provenance"].get("strategies", {}).items()
    }
    return {name: share for name, share in shares.items() if share is not None}


def latencies(study: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Predicted time in ms by strategy and chip, where the compiler predicts one."""
    return {
        (r["strategy"], r["chip"]): r["predicted_latency_ms"]
        for r in study.get("models", [])
        if r.get("predicted_latency_ms") is not None
    }


def write_recommendations(study: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``<CHIP>/recommended.json`` below `folder`, each with its evidence."""
    paths = []
    for found in recommendations(study):
        fields = study["provenance"]["strategies"][found["strategy"]]
        evidence = {
            **{key: value for key, value in found.items() if key != "strategy"},
            "float": study["float"]["correct"] / study["float"]["images"],
            **{
                key: study["provenance"][key]
                for key in ("plates", "weights", "tpu_mlir", "decoder", "folds")
            },
        }
        text = json.dumps({"strategy": fields, "evidence": evidence}, indent=1, ensure_ascii=False)
        paths.append(atomic_write(folder / found["chip"] / "recommended.json", text + "\n"))
    return paths


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
