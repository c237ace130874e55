"""What a study shows, in sentences: each computed from its data, true or not of another study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..toolchain.strategies import STRATEGIES
from .cells import CROSS_FIT
from .results import difference, latencies, summarize

Lines = Sequence[Mapping[str, Any]]


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def spread(lines: Lines) -> list[str]:
    """How far draws of one strategy lie apart, and how far strategies do, by chip."""
    said = []
    usable = [
        x for x in lines if x.get("draws", 0) > 1 and x["scheme"] == CROSS_FIT and x["mean"] > 0.7
    ]
    for chip in dict.fromkeys(line["chip"] for line in usable):
        here = [line for line in usable if line["chip"] == chip]
        ranges = [line["high"] - line["low"] for line in here]
        means = [line["mean"] for line in here]
        said.append(
            f"{chip}: draws of one strategy lie {_points(np.median(ranges))} apart in the median "
            f"and up to {_points(max(ranges))}; the means of the {len(here)} strategies lie within "
            f"{_points(max(means) - min(means))}, half of them within "
            f"{_points(np.subtract(*np.percentile(means, [75, 25])))}."
        )
    return said


def significance(lines: Lines, baseline: str, level: float = 0.05) -> list[str]:
    """Which strategies differ from float and from the baseline in every draw, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        here = [
            line
            for line in lines
            if line["chip"] == chip and line["scheme"] == CROSS_FIT and "p_float" in line
        ]
        parts = []
        for key, other in (("p_float", "float"), ("p_baseline", baseline)):
            names = [line["strategy"] for line in here if line.get(key, 1.0) < level]
            parts.append(f"from {other} in every draw: {', '.join(names) or 'none'}")
        said.append(f"{chip}: significantly different {'; '.join(parts)}.")
    return said


def forks(study: dict[str, Any], before: str = "mse", after: str = "mse-forked") -> list[str]:
    """What a form of the network changes in accuracy and predicted time, by chip."""
    times, said = latencies(study), []
    for chip in dict.fromkeys(row["chip"] for row in study["rows"]):
        found = difference(study, after, before, chip)
        if found is None:
            continue
        low, high = found["interval"]
        old, new = times.get((before, chip)), times.get((after, chip))
        pace = (
            f"; predicted time {old:.4f} to {new:.4f} ms ({100 * (new / old - 1):+.0f} %)"
            if old and new
            else "; no predicted time"
        )
        said.append(
            f"{chip}: {after} against {before} {100 * found['difference']:+.1f} points "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}){pace}."
        )
    return said


def training(study: dict[str, Any], lines: Lines) -> list[str]:
    """What `study_results.paired`'s lines come to, by chip and baseline."""
    said = []
    keys = dict.fromkeys((x["chip"], x["strategy"], x["baseline"]) for x in lines)
    for chip, strategy, baseline in keys:
        here = [
            x
            for x in lines
            if (x["chip"], x["strategy"], x["baseline"]) == (chip, strategy, baseline)
        ]
        found = difference(study, strategy, baseline, chip)
        assert found is not None  # both ran, or there were no lines of them
        low, high = found["interval"]
        better = sum(x["only_strategy"] > x["only_baseline"] for x in here)
        said.append(
            f"{chip}: {strategy} {np.mean([x['mean'] for x in here]):.4f}, {baseline} "
            f"{np.mean([x['baseline_mean'] for x in here]):.4f} over {len(here)} draws: "
            f"{100 * found['difference']:+.2f} points (95 % interval {100 * low:+.2f} to "
            f"{100 * high:+.2f}), more plates in {better} draws; smallest p "
            f"{min(x['p'] for x in here):.2g} after Holm's correction."
        )
    return said


def roles(lines: Lines) -> list[str]:
    """Which role helps most in float and which costs most when quantized alone, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        here = [line for line in lines if line["chip"] == chip and "steps_off" in line]
        whole = next(line for line in here if line["mode"] == "all")
        best = min((x for x in here if x["mode"] == "float"), key=lambda x: x["steps_off"])
        worst = max((x for x in here if x["mode"] == "int8"), key=lambda x: x["steps_off"])
        steps = 18 * whole["images"]
        said.append(
            f"{chip}: all in INT8, {whole['steps_off']} of {steps} time steps are read unlike "
            f"float. The best single role in float is {best['role']}, which leaves "
            f"{best['steps_off']}; quantized alone, {worst['role']} costs most, "
            f"{worst['steps_off']}."
        )
    return said


def company(lines: Lines) -> list[str]:
    """How many readings depend on the other images of a batch, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        moved = {line["batch_mean"]: line for line in lines if line["chip"] == chip}
        parts = [
            f"{line['moved']} of {line['images']} readings change with their company when the "
            f"mean is taken over the {mean}"
            for mean, line in moved.items()
        ]
        said.append(f"{chip}, batch of {next(iter(moved.values()))['batch']}: {'; '.join(parts)}.")
    return said


def proof(models: Lines) -> list[str]:
    """What was compared of each BModel, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in models):
        here = [line for line in models if line["chip"] == chip and "error" not in line]
        checked = [line["simulator"] for line in here if "simulator" in line]
        text = (
            f"{chip}: the graphs of {sum(line['same_graph'] for line in here)} of {len(here)} "
            "BModels are those of the study."
        )
        if checked:
            far = [found["max_abs_difference"] for found in checked if not found["identical"]]
            text += (
                f" The chip simulator read {sum(found['images'] for found in checked)} plates "
                f"with {len(checked)} of them, each like the emulator; "
                f"{len(checked) - len(far)} give the same logits bit for bit"
                + (f", the others differ by {max(far):.2g} at most." if far else ".")
            )
        said.append(text)
    return said


def recommendations(found: Lines, reference: float) -> list[str]:
    """What to ship on each chip, and what choosing among so many is worth."""
    said = []
    for line in found:
        time = f", predicted {line['latency_ms']:.4f} ms" if line.get("latency_ms") else ""
        text = (
            f"{line['chip']}: {line['strategy']}, mean {line['mean']:.4f} over "
            f"{line['draws']} draws ({line['low']:.3f} to {line['high']:.3f}; float "
            f"{reference:.3f}, lowest p of a draw against it {line['p_lowest']:.2f}){time}."
        )
        if line.get("unbiased"):
            nested = line["unbiased"]
            chosen = ", ".join(
                f"{name} {100 * share:.0f} %" for name, share in nested["chosen"].items()
            )
            text += (
                f" Chosen and judged on different images: {nested['mean']:.4f} "
                f"({nested['low']:.3f} to {nested['high']:.3f}; chosen: {chosen})."
            )
        said.append(text)
    return said


def decoded(study: dict[str, Any], shipped: Mapping[str, str]) -> list[str]:
    """What a study's decoder makes of the strategies that are shipped, by chip.

    Parameters
    ----------
    study
        A study, see `study.run_study`.
    shipped
        Name of a strategy by chip; chips or strategies that were not run are passed over.
    """
    reference = study["float"]["correct"] / study["float"]["images"]
    return [
        f"{line['chip']}: {line['strategy']}, mean {line['mean']:.4f} over {line['draws']} "
        f"draws ({line['low']:.3f} to {line['high']:.3f}), {line['mean'] - reference:+.4f} "
        f"against float's {reference:.3f} (decoder {study['provenance']['decoder']})."
        for line in summarize(study)
        if shipped.get(line["chip"]) == line["strategy"] and "mean" in line
    ]


def tried(study: dict[str, Any]) -> str:
    """What was run, and what of the registry was not."""
    lines = summarize(study)
    names = {line["strategy"] for line in lines}
    refused = sum("error" in line for line in lines)
    draws = sorted({line["draws"] for line in lines if "mean" in line})
    return (
        f"{len(names)} strategies, {len({line['chip'] for line in lines})} chips, "
        f"{draws[0] if draws else 0} to {draws[-1] if draws else 0} draws, "
        f"{study['float']['images']} images; {refused} settings are refused by a tool. Not run: "
        f"{', '.join(name for name in STRATEGIES if name not in names) or 'none'}."
    )
