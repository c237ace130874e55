"""What a study shows, in sentences: each computed from its data, true or not of another study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..language import Text, clauses, phrase, sentences
from ..measure.badge import outcomes
from ..toolchain.strategies import STRATEGIES
from .cells import CROSS_FIT
from .results import difference, latencies, summarize

Lines = Sequence[Mapping[str, Any]]


def _points(value: float) -> Text:
    return phrase("{points:.1f} points", points=100 * value)


def spread(lines: Lines) -> list[Text]:
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
            phrase(
                "{chip}: draws of one strategy lie {middle} apart in the median and up to {most}; "
                "the means of the {count} strategies lie within {span}, half of them within "
                "{half}.",
                chip=chip,
                middle=_points(float(np.median(ranges))),
                most=_points(max(ranges)),
                count=len(here),
                span=_points(max(means) - min(means)),
                half=_points(float(np.subtract(*np.percentile(means, [75, 25])))),
            )
        )
    return said


def forks(study: dict[str, Any], before: str = "mse", after: str = "mse-forked") -> list[Text]:
    """What a form of the network changes in accuracy and predicted time, by chip."""
    times, said = latencies(study), []
    for chip in dict.fromkeys(row["chip"] for row in study["rows"]):
        found = difference(study, after, before, chip)
        if found is None:
            continue
        low, high = found["interval"]
        old, new = times.get((before, chip)), times.get((after, chip))
        pace = (
            phrase(
                "predicted time {old:.4f} to {new:.4f} ms ({change:+.0f} %)",
                old=old,
                new=new,
                change=100 * (new / old - 1),
            )
            if old and new
            else phrase("no predicted time")
        )
        said.append(
            phrase(
                "{chip}: {after} against {before} {points:+.1f} points (95 % interval {low:+.1f} "
                "to {high:+.1f}); {pace}.",
                chip=chip,
                after=after,
                before=before,
                points=100 * found["difference"],
                low=100 * low,
                high=100 * high,
                pace=pace,
            )
        )
    return said


def roles(lines: Lines) -> list[Text]:
    """Which role helps most in float and which costs most when quantized alone, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        here = [line for line in lines if line["chip"] == chip and "steps_off" in line]
        whole = next(line for line in here if line["mode"] == "all")
        best = min((x for x in here if x["mode"] == "float"), key=lambda x: x["steps_off"])
        worst = max((x for x in here if x["mode"] == "int8"), key=lambda x: x["steps_off"])
        steps = 18 * whole["images"]
        said.append(
            phrase(
                "{chip}: all in INT8, {off} of {steps} time steps are read unlike float. The best "
                "single role in float is {best}, which leaves {left}; quantized alone, {worst} "
                "costs most, {cost}.",
                chip=chip,
                off=whole["steps_off"],
                steps=steps,
                best=best["role"],
                left=best["steps_off"],
                worst=worst["role"],
                cost=worst["steps_off"],
            )
        )
    return said


def company(lines: Lines) -> list[Text]:
    """How many readings depend on the other images of a batch, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        moved = {line["batch_mean"]: line for line in lines if line["chip"] == chip}
        parts = [
            phrase(
                "{moved} of {images} readings change with the others in the batch when the mean is "
                "taken over the batch"
                if mean == "batch"
                else "{moved} of {images} readings change with the others in the batch when the "
                "mean is taken over the image",
                moved=line["moved"],
                images=line["images"],
            )
            for mean, line in moved.items()
        ]
        said.append(
            phrase(
                "{chip}, batch of {batch}: {parts}.",
                chip=chip,
                batch=next(iter(moved.values()))["batch"],
                parts=clauses(parts),
            )
        )
    return said


def proof(models: Lines) -> list[Text]:
    """What was compared of each BModel, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in models):
        here = [line for line in models if line["chip"] == chip and "error" not in line]
        checked = [line["simulator"] for line in here if "simulator" in line]
        text = phrase(
            "{chip}: the graphs of {same} of {all} BModels are those of the study.",
            chip=chip,
            same=sum(line["same_graph"] for line in here),
            all=len(here),
        )
        said.append(sentences(text, _checked(checked)) if checked else text)
    return said


def _checked(checked: Lines) -> Text:
    """What the chip simulator said of the BModels that it ran."""
    return phrase(
        "The chip simulator read {images} plates with {count} of them: {outcome}.",
        images=sum(found["images"] for found in checked),
        count=len(checked),
        outcome=outcomes(checked),
    )


def tried(study: dict[str, Any]) -> Text:
    """What was run, and what of the registry was not."""
    lines = summarize(study)
    names = {line["strategy"] for line in lines}
    refused = sum("error" in line for line in lines)
    draws = sorted({line["draws"] for line in lines if "mean" in line})
    return phrase(
        "{count} strategies, {chips} chips, {least} to {most} draws, {images} images; {refused} "
        "settings are refused by a tool. Not run: {others}.",
        count=len(names),
        chips=len({line["chip"] for line in lines}),
        least=draws[0] if draws else 0,
        most=draws[-1] if draws else 0,
        images=study["float"]["images"],
        refused=refused,
        others=", ".join(name for name in STRATEGIES if name not in names) or phrase("none"),
    )
