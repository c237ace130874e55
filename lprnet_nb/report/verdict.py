"""What the rows of a report say, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..evaluate.paired import holm
from ..measure.schema import BModelFacts, Metrics, Row

LEVEL = 0.05  # p-values below, after Holm's correction, are called more than chance
FEW = 300  # images; below, Wilson's interval around 0.9 is wider than 7 points


@dataclass(frozen=True)
class Comparison:
    """One compiled model beside the float network.

    Attributes
    ----------
    row
        Its row of ``metrics.json``.
    difference
        Plates read right, less those of the float network; None without labels or reference.
    p
        McNemar's p-value after Holm's correction over the INT8 rows of this decoder; None where
        nothing was tested.
    state
        "same" (every image reads alike), "chance" (the difference may be chance), "worse",
        "better" or "unknown".
    sentence
        The same for people.
    """

    row: Row
    difference: int | None
    p: float | None
    state: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The top of a report.

    Attributes
    ----------
    headline
        One or two sentences.
    data, reference, computed
        Which images; what the float network reads; which backend and who checked it.
    checked
        Whether the simulator (or a device) stands behind every number.
    decoder
        That all of it is about.
    chips
        `Comparison` by chip, in the order of the rows.
    warnings
        ``(title, text)`` of what must not be overlooked.
    notes
        Limits of the run, for the small print.
    """

    headline: str
    data: str
    reference: str
    computed: str
    checked: bool
    decoder: str
    chips: dict[str, tuple[Comparison, ...]]
    warnings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def judge(metrics: Metrics, facts: Iterable[BModelFacts] = ()) -> Verdict:
    """Put the rows into words.

    Parameters
    ----------
    metrics
        A checked ``metrics.json``.
    facts
        Of the BModels, for what the simulator said.
    """
    decoders = [row.decoder for row in metrics.rows]
    decoder = "greedy" if "greedy" in decoders or not decoders else decoders[0]
    rows = [row for row in metrics.rows if row.decoder == decoder]
    floats = {(row.batch, row.batch_mean): row for row in rows if row.chip is None}
    corrected = _corrected(rows)
    chips: dict[str, list[Comparison]] = {}
    for row in rows:
        if row.chip is not None:
            chips.setdefault(row.chip, []).append(
                _compare(
                    row,
                    floats.get((row.batch, row.batch_mean)),
                    corrected.get(id(row)),
                    len(corrected),
                )
            )
    computed, checked = _computed(rows, list(facts))
    reference = next(iter(floats.values()), None)
    return Verdict(
        _headline(chips, metrics.dataset.images),
        _data(metrics, decoder),
        _reference(reference),
        computed,
        checked,
        decoder,
        {chip: tuple(found) for chip, found in chips.items()},
        tuple(_warnings(metrics)),
        tuple(_notes(metrics, rows)),
    )


def number(value: int) -> str:
    """A count with thousands apart."""
    return f"{value:,}"


def share(value: float | None) -> str:
    """A share with three decimals, one per cent being 0.010."""
    return "–" if value is None else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    """An interval of shares."""
    return "–" if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"


def probability(p: float | None) -> str:
    """A p-value as it is read: two significant digits, very small ones as a bound."""
    if p is None:
        return "–"
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _corrected(rows: Sequence[Row]) -> dict[int, float]:
    tested = [row for row in rows if row.precision == "int8" and row.mcnemar_p is not None]
    return {
        id(row): float(p)
        for row, p in zip(tested, holm([row.mcnemar_p for row in tested]), strict=True)
    }


def _compare(row: Row, base: Row | None, corrected: float | None, tests: int) -> Comparison:
    p = row.mcnemar_p if corrected is None else corrected
    difference = row.right - base.right if base and None not in (row.right, base.right) else None
    if row.agreement_with_float == 1:
        return Comparison(
            row, difference, p, "same", "Reads every image as the float network does."
        )
    if difference is None or p is None:
        if row.agreement_with_float is None:
            return Comparison(row, difference, p, "unknown", "Was not compared with float.")
        return Comparison(
            row,
            difference,
            p,
            "unknown",
            f"Reads {_percent(row.agreement_with_float)} of the images as the float network does.",
        )
    chance = p >= LEVEL
    state = "chance" if chance else "worse" if difference < 0 else "better"
    amount = (
        (
            f"Reads {number(abs(difference))} of {number(row.images)} plates "
            f"{'fewer' if difference < 0 else 'more'} than float"
        )
        if difference
        else "Reads as many plates as float, though not the same ones"
    )
    judged = "may well be chance" if chance else "is more than chance"
    # Holm's correction changes nothing for a single test.
    correction = (
        f", corrected for {tests} comparisons" if tests > 1 and corrected is not None else ""
    )
    about = "this difference " if difference else "what differs "
    return Comparison(
        row,
        difference,
        p,
        state,
        f"{amount}; {about}{judged} (McNemar p {_equals(p)}{correction}).",
    )


def _equals(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def _plates(count: int) -> str:
    return "plate" if count == 1 else "plates"


def _percent(value: float) -> str:
    """Never rounded up to all of them."""
    return f"{int(value * 1000) / 10:.1f} %"


def chosen(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The INT8 model that a chip is judged by: "recommended" where it was run, else the first.

    The best one would be chosen by the very images that judge it.
    """
    quantized = [one for one in comparisons if one.row.precision == "int8"]
    named = [one for one in quantized if one.row.strategy == "recommended"]
    return next(iter(named or quantized), None)


def _headline(chips: dict[str, list[Comparison]], images: int) -> str:
    judged = {chip: chosen(found) for chip, found in chips.items()}
    by_state: dict[str, list[str]] = {}
    for chip, one in judged.items():
        if one is not None:
            by_state.setdefault(one.state, []).append(chip)
    if not by_state:
        if not chips:
            return "Nothing but the float network was run."
        alike = all(one.state == "same" for found in chips.values() for one in found)
        return (
            f"The compiled float models read every image as PyTorch does, on {listed(list(chips))}."
            if alike
            else f"No INT8 model was compared on {listed(list(chips))}."
        )
    said = {
        "same": "INT8 reads every image exactly as float does on {}.",
        "chance": f"INT8 cannot be told from float on {{}}, as far as {number(images)} "
        f"{_plates(images)} can tell.",
        "worse": "INT8 reads fewer plates than float on {}, and by more than chance.",
        "better": "INT8 reads more plates than float on {}, and by more than chance.",
        "unknown": "Whether INT8 reads as well as float on {} cannot be said: there are no labels "
        "to judge by.",
    }
    return " ".join(
        said[state].format(listed(by_state[state])) for state in said if state in by_state
    )


def _data(metrics: Metrics, decoder: str) -> str:
    count = number(metrics.dataset.images)
    source = metrics.data
    kind = source.source if source else None
    what = {
        "published": f"{count} of the 1,000 published test plates"
        if metrics.dataset.images != 1000
        else "all 1,000 published test plates",
        "generated": f"{count} generated plates",
    }.get(kind or "", f"{count} images of “{metrics.dataset.name}”")
    weights = (
        {
            "published": "the published weights",
            "generated": "weights of our own (trained on generated plates)",
        }.get(source.weights, f"the weights “{source.weights}”")
        if source
        else None
    )
    with_weights = f", read with {weights}" if weights else ""
    return f"Measured on {what}{with_weights} and the {decoder} decoder."


def _reference(row: Row | None) -> str:
    if row is None:
        return "The float network was not run."
    if row.exact_match is None:
        return "There are no labels: only agreement with the float network is shown."
    return (
        f"The float network in PyTorch reads {number(row.right)} of {number(row.images)} "
        f"plates without any error: {share(row.exact_match)} (95 % interval "
        f"{share(row.ci95[0])} to {share(row.ci95[1])})."
    )


_BACKENDS = {
    "device": "a Sophgo device",
    "simulator": "the chip simulator, which runs the BModels themselves",
    "emulator": "the emulator, which runs the compiler's own graph of each BModel on this CPU",
    "torch": "PyTorch",
}


def _computed(rows: Sequence[Row], facts: list[BModelFacts]) -> tuple[str, bool]:
    backends = list(dict.fromkeys(row.backend for row in rows if row.chip is not None))
    if not backends:
        return "No BModel was run.", True
    text = (
        "Logits of the BModels were computed by "
        f"{listed([_BACKENDS.get(name, name) for name in backends])}."
    )
    if "emulator" not in backends:
        return text, True
    checks = {one.id: one.crosscheck for one in facts if one.crosscheck}
    needed = {row.id for row in rows if row.backend == "emulator"}
    missing = needed - set(checks)
    if not checks:
        return f"{text} The chip simulator did not check them in this run.", False
    images = sorted({int(check.get("images") or 0) for check in checks.values()})
    span = f"{images[0]}" if images[0] == images[-1] else f"{images[0]} to {images[-1]}"
    identical = sum(check.get("identical") is True for check in checks.values())
    alike = sum(check.get("same_classes") is True for check in checks.values())
    models = "the BModel" if len(checks) == 1 else f"each of {len(checks)} BModels"
    text += (
        f" The chip simulator then ran {span} {'image' if span == '1' else 'images'} through "
        f"{models}: "
    )
    if identical == len(checks):
        text += "every logit is identical, bit for bit."
    else:  # a plate that reads otherwise ends the run: runtime.crosscheck
        worst = max(float(check.get("max_abs_difference") or 0) for check in checks.values())
        text += (
            "the same character at every step"
            if alike == len(checks)
            else f"the same readings, {len(checks) - alike} of them with another class at single "
            "time steps"
        )
        text += (
            f", {identical} of {len(checks)} identical bit for bit, the largest difference of "
            f"a logit {worst:.2g}."
        )
    if missing:
        text += f" Not checked: {listed(sorted(missing))}."
    return text, alike == len(checks) and not missing


def _warnings(metrics: Metrics) -> Iterable[tuple[str, str]]:
    source = metrics.data
    if source and source.source == "generated":
        yield (
            "Generated plates, not photographs",
            "The published test images were not used. These plates were drawn by this "
            "workbook's generator; accuracies here say how the models compare with each other, "
            "not how they read a camera's images, and they do not stand beside the published "
            "figures.",
        )
    elif source and source.weights == "generated":
        yield (
            "Weights of our own",
            "The published weights were not used. These were trained by this workbook on "
            "generated plates.",
        )
    if not metrics.rows:
        yield ("Nothing was measured", "metrics.json has no rows.")


def _notes(metrics: Metrics, rows: Sequence[Row]) -> Iterable[str]:
    if 0 < metrics.dataset.images < FEW:
        widths = [row.ci95[1] - row.ci95[0] for row in rows if row.ci95]
        wide = f" (intervals up to {max(widths):.2f} wide)" if widths else ""
        yield (
            f"{number(metrics.dataset.images)} images are a quick look{wide}: differences of a "
            "few plates cannot be seen. A run over all images narrows them."
        )
    source = metrics.data
    if (
        source
        and source.calibration.among_evaluated
        and any(row.precision == "int8" for row in rows)
    ):
        yield (
            "Calibration images are among the evaluated ones, so INT8 figures may flatter a little."
        )
    if source and source.source == "published":
        yield (
            "The published images, nearly all from one province, are what the published weights "
            "know best: expect less on other plates."
        )
