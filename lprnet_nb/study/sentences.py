"""What a study shows, in sentences: each computed from its data, true or not of another study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..language import Text, clauses, phrase, sentences
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


def significance(lines: Lines, baseline: str, level: float = 0.05) -> list[Text]:
    """Which strategies differ from float and from the baseline in every draw, by chip."""
    said = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        here = [
            line
            for line in lines
            if line["chip"] == chip and line["scheme"] == CROSS_FIT and "p_float" in line
        ]
        parts = []
        for key, other in (("p_float", phrase("float")), ("p_baseline", baseline)):
            names = [line["strategy"] for line in here if line.get(key, 1.0) < level]
            parts.append(
                phrase(
                    "from {other} in every draw: {names}",
                    other=other,
                    names=", ".join(names) or phrase("none"),
                )
            )
        said.append(
            phrase("{chip}: significantly different {parts}.", chip=chip, parts=clauses(parts))
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


def training(study: dict[str, Any], lines: Lines) -> list[Text]:
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
            phrase(
                "{chip}: {strategy} {mean:.4f}, {baseline} {other:.4f} over {draws} draws: "
                "{points:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), more plates in "
                "{better} draws; smallest p {p:.2g} after Holm's correction.",
                chip=chip,
                strategy=strategy,
                mean=np.mean([x["mean"] for x in here]),
                baseline=baseline,
                other=np.mean([x["baseline_mean"] for x in here]),
                draws=len(here),
                points=100 * found["difference"],
                low=100 * low,
                high=100 * high,
                better=better,
                p=min(x["p"] for x in here),
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
    far = [found["max_abs_difference"] for found in checked if not found["identical"]]
    read = phrase(
        "The chip simulator read {images} plates with {count} of them, each like the emulator;",
        images=sum(found["images"] for found in checked),
        count=len(checked),
    )
    same = phrase(
        "{exact} give the same logits bit for bit, the others differ by {far:.2g} at most."
        if far
        else "{exact} give the same logits bit for bit.",
        exact=len(checked) - len(far),
        far=max(far, default=0.0),
    )
    return sentences(read, same)


def recommendations(found: Lines, reference: float) -> list[Text]:
    """What to ship on each chip, and what choosing among so many is worth."""
    said = []
    for line in found:
        draws = {
            "chip": line["chip"],
            "strategy": line["strategy"],
            "mean": line["mean"],
            "draws": line["draws"],
            "low": line["low"],
            "high": line["high"],
            "reference": reference,
            "p": line["p_lowest"],
            "ms": line.get("latency_ms"),
        }
        text = phrase(
            "{chip}: {strategy}, mean {mean:.4f} over {draws} draws ({low:.3f} to {high:.3f}; "
            "float {reference:.3f}, lowest p of a draw against it {p:.2f}), predicted {ms:.4f} ms."
            if line.get("latency_ms")
            else "{chip}: {strategy}, mean {mean:.4f} over {draws} draws ({low:.3f} to {high:.3f}; "
            "float {reference:.3f}, lowest p of a draw against it {p:.2f}).",
            **draws,
        )
        if line.get("unbiased"):
            nested = line["unbiased"]
            chosen = ", ".join(
                f"{name} {100 * share:.0f} %" for name, share in nested["chosen"].items()
            )
            judged = phrase(
                "Chosen and judged on different images: {mean:.4f} ({low:.3f} to {high:.3f}; "
                "chosen: {chosen}).",
                mean=nested["mean"],
                low=nested["low"],
                high=nested["high"],
                chosen=chosen,
            )
            text = sentences(text, judged)
        said.append(text)
    return said


def decoded(study: dict[str, Any], shipped: Mapping[str, str]) -> list[Text]:
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
        phrase(
            "{chip}: {strategy}, mean {mean:.4f} over {draws} draws ({low:.3f} to {high:.3f}), "
            "{gain:+.4f} against float's {reference:.3f} (decoder {decoder}).",
            chip=line["chip"],
            strategy=line["strategy"],
            mean=line["mean"],
            draws=line["draws"],
            low=line["low"],
            high=line["high"],
            gain=line["mean"] - reference,
            reference=reference,
            decoder=study["provenance"]["decoder"],
        )
        for line in summarize(study)
        if shipped.get(line["chip"]) == line["strategy"] and "mean" in line
    ]


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
