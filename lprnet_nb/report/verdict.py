"""What the rows of a report say, in plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..evaluate.likeness import unlike_said
from ..language import Text, counted, listed, number, phrase, sentences
from ..measure.badge import (
    Badge,
    badge,
    exactness,
    figure,
    outcomes,
    read_alike,
)
from ..measure.box import judge_said
from ..measure.schema import BModelFacts, Metrics, Row
from ..work.pieces import TOP

PUBLISHED = 1000  # plates of the published set
Again = Callable[..., str]  # `profiles.command` of a report, as far as name and changes
UNKNOWN = "unknown"  # precision of a BModel from elsewhere
FEW = 300  # images; below, Wilson's interval around 0.9 is wider than 7 points


def exactness_of(facts: BModelFacts) -> Badge | None:
    """What is known of a model's exactness; of one from elsewhere, that nothing is."""
    if facts.precision == UNKNOWN:
        return badge("fair", phrase("no record: exactness not known"))
    return exactness(facts.crosscheck)


def exactness_on_box(row: Row) -> Badge | None:
    """What a box's logits come to beside the expected ones; None for what was run here."""
    return exactness({**row.box.model_dump(), "images": row.images}) if row.box else None


@dataclass(frozen=True)
class Comparison:
    """One compiled model beside the float network.

    Attributes
    ----------
    row
        Its row of ``metrics.json``.
    state
        "same" (every image reads alike), `decision.Outcome`, or "unknown".
    sentence
        The same for people.
    exactness
        Of its logits to the chip simulator's; None where that was not checked.
    """

    row: Row
    state: str
    sentence: str
    exactness: Badge | None = None


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
    tolerance
        Points that a model may lose against float; None in reports of schema 1.
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
    tolerance: float | None
    chips: dict[str, tuple[Comparison, ...]]
    warnings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def judge(
    metrics: Metrics, facts: Sequence[BModelFacts] = (), again: Again | None = None
) -> Verdict:
    """Put the rows into words.

    Parameters
    ----------
    metrics
        A checked ``metrics.json``.
    facts
        Of the BModels, for what the simulator said.
    again
        Names the command that makes a report with other parameters, where too few plates were read.
    """
    known = {one.id: exactness_of(one) for one in facts}
    decoders = [row.decoder for row in metrics.rows]
    decoder = "greedy" if "greedy" in decoders or not decoders else decoders[0]
    rows = [row for row in metrics.rows if row.decoder == decoder]
    reference = next((row for row in rows if row.chip is None), None)
    chips: dict[str, list[Comparison]] = {}
    for row in rows:
        if row.chip is not None:
            exact = exactness_on_box(row) if row.box else known.get(row.id)
            found = replace(_compare(row, metrics, again), exactness=exact)
            chips.setdefault(row.chip, []).append(found)
    computed, checked = _computed([row for row in rows if row.box is None], facts)
    on_box, boxes_agree = _on_boxes([row for row in rows if row.box])
    return Verdict(
        _headline(chips, metrics),
        _data(metrics, decoder),
        _reference(reference),
        sentences(computed, on_box),
        checked and boxes_agree,
        decoder,
        metrics.tolerance,
        {chip: tuple(found) for chip, found in chips.items()},
        tuple(_warnings(metrics)),
        tuple(_notes(metrics, rows)),
    )


def losers(metrics: Metrics, again: Again | None = None) -> list[str]:
    """Compiled models that are not shown to be within the tolerance, each with what was found."""
    found = []
    for row in metrics.rows:
        one = _compare(row, metrics, again)
        if row.chip is not None and one.state not in ("same", "within"):
            found.append(f"{row_name(row)}, batch {row.batch}, {row.decoder}: {one.sentence}")
    return found


def row_name(row: Row) -> str:
    """Name of a row for people, such as ``BM1684X INT8 kl``."""
    precision = None if row.precision == UNKNOWN else row.precision.upper()
    by = f"by {row.release}" if row.release else None
    by_float = FLOAT_BY.get(row.backend, "PyTorch")
    parts = [row.chip or by_float, precision if row.chip else "float", row.strategy, by]
    return " ".join(part for part in parts if part)


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


def points(share: float) -> str:
    """A difference of exact match in points, with its sign: ``−0.6``."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _compare(row: Row, metrics: Metrics, again: Again | None) -> Comparison:
    if row.same_top1 is not None:
        return Comparison(row, "same" if row.same_top1 == 1 else "unknown", _top1_said(row))
    alike = row.agreement_with_float == 1
    # The same function in float is known by its logits; of others as many plates are asked as ever.
    if alike and (row.precision == "fp32" or row.loss is None or row.loss.outcome == "within"):
        return Comparison(row, "same", phrase("Reads every image as the float network does."))
    if row.loss is None or metrics.tolerance is None:
        if row.agreement_with_float is None:
            return Comparison(row, "unknown", phrase("Was not compared with float."))
        return Comparison(
            row,
            "unknown",
            phrase(
                "Reads {share} of the images as the float network does.",
                share=_percent(row.agreement_with_float),
            ),
        )
    loss, may = row.loss, _points(metrics.tolerance)
    seen = phrase(
        "{points} points against float (95 % interval {low} to {high})",
        points=points(loss.difference),
        low=points(loss.ci95[0]),
        high=points(loss.ci95[1]),
    )
    said = {
        "within": phrase("{seen}: no more than {may} lost.", seen=seen, may=may),
        "not within": phrase("{seen}: more than {may} lost.", seen=seen, may=may),
        "too few plates": sentences(
            phrase(
                "{seen}: {plates} cannot tell whether it loses more than {may}.",
                seen=seen,
                plates=_plates(row.images),
                may=may,
            ),
            _what_decides(loss.decides, metrics, again),
        ),
    }
    return Comparison(row, loss.outcome, said[loss.outcome])


def _top1_said(row: Row) -> Text:
    """How near logits are that are no CTC."""
    return phrase(
        "The likeliest class is the float network's at {share} of the positions; all logits have a "
        "cosine of {cosine} with its.",
        share=_percent(row.same_top1 or 0),
        cosine="–" if row.logits_cosine is None else f"{row.logits_cosine:.5f}",
    )


def _what_decides(count: int | None, metrics: Metrics, again: Again | None) -> Text:
    """How many plates would, and how to read them: no box has run these, so none is named."""
    if count is None:
        return phrase("The difference lies on the tolerance: no number of such plates would.")
    source = metrics.data.source if metrics.data else None
    about = phrase("About {count} such plates would", count=number(count))
    if again is None:
        return phrase("{about}.", about=about)
    if source == "generated" or (source == "published" and count <= PUBLISHED):
        more = again(f"-{count}", IMAGES=count, MEASURED=None)
        return phrase("{about}: `{command}`", about=about, command=more)
    if source == "published" and metrics.dataset.images < PUBLISHED:
        return phrase(
            "{about}; the published set has {all}, which narrow the interval: `{command}`",
            about=about,
            all=number(PUBLISHED),
            command=again("-all", IMAGES=0, MEASURED=None),
        )
    return phrase(
        "{about}: `{command}`, with that many of your own.",
        about=about,
        command=again("-own", DATA="FOLDER", IMAGES=0, MEASURED=None),
    )


def _points(count: float) -> Text:
    return phrase("{count:g} point" if count == 1 else "{count:g} points", count=count)


def _plates(count: int) -> Text:
    return counted(count, "{count} plate", "{count} plates")


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


def _headline(chips: dict[str, list[Comparison]], metrics: Metrics) -> str:
    by_state: dict[str, list[str]] = {}
    for chip, found in chips.items():
        one = chosen(found)
        if one is not None:
            by_state.setdefault(one.state, []).append(chip)
    if not by_state:
        if not chips:
            return phrase("Nothing but the float network was run.")
        alike = all(one.state == "same" for found in chips.values() for one in found)
        on = listed(list(chips))
        return (
            phrase(
                "The compiled float models read every image as float does, on {chips}.", chips=on
            )
            if alike
            else phrase("No INT8 model was compared on {chips}.", chips=on)
        )
    nearest = {chip: chosen(found) for chip, found in chips.items()}
    top1 = {
        chip: one.row.same_top1
        for chip, one in nearest.items()
        if one is not None and one.row.same_top1 is not None
    }
    if top1:
        return phrase(
            "INT8 gives float's likeliest class at {shares} of the positions; nothing is decoded.",
            shares=listed(
                [
                    phrase("{share} on {chip}", share=_percent(share), chip=chip)
                    for chip, share in top1.items()
                ]
            ),
        )
    may, plates = _points(metrics.tolerance or 0), _plates(metrics.dataset.images)

    def said(state: str, on: Text) -> Text:
        return {
            "same": phrase("INT8 reads every image exactly as float does on {chips}.", chips=on),
            "within": phrase(
                "INT8 loses no more than {may} of exact match on {chips}.", may=may, chips=on
            ),
            "too few plates": phrase(
                "Whether INT8 loses more than {may} on {chips}, {plates} cannot tell.",
                may=may,
                chips=on,
                plates=plates,
            ),
            "not within": phrase(
                "INT8 loses more than {may} of exact match on {chips}.", may=may, chips=on
            ),
            "unknown": phrase(
                "Whether INT8 reads as well as float on {chips} was not judged.", chips=on
            ),
        }[state]

    order = ("same", "within", "too few plates", "not within", "unknown")
    return sentences(*(said(k, listed(by_state[k])) for k in order if k in by_state))


def _data(metrics: Metrics, decoder: str) -> Text:
    count = number(metrics.dataset.images)
    source = metrics.data
    kind = source.source if source else None
    what = {
        "published": phrase("{count} of the 1,000 published test plates", count=count)
        if metrics.dataset.images != 1000
        else phrase("all 1,000 published test plates"),
        "generated": phrase("{count} generated plates", count=count),
    }.get(kind or "", phrase("{count} images of “{name}”", count=count, name=metrics.dataset.name))
    if source is None:
        return phrase("Measured on {what} and the {decoder} decoder.", what=what, decoder=decoder)
    if decoder == TOP:
        return phrase(
            "Measured on {what}, by logits of the network “{name}”: they are no CTC, so nothing is "
            "decoded, and labels are not needed.",
            what=what,
            name=source.weights,
        )
    weights = {
        "published": phrase("the published weights"),
        "generated": phrase("weights of our own (trained on generated plates)"),
    }.get(source.weights, phrase("the weights “{name}”", name=source.weights))
    return phrase(
        "Measured on {what}, read with {weights} and the {decoder} decoder.",
        what=what,
        weights=weights,
        decoder=decoder,
    )


FLOAT_BY = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}  # who runs the float network


def _reference(row: Row | None) -> Text:
    if row is None:
        return phrase("The float network was not run.")
    if row.exact_match is None or row.right is None or row.ci95 is None:
        return phrase("There are no labels: only agreement with the float network is shown.")
    return phrase(
        "The float network in {by} reads {right} of {images} plates without any error: {share} "
        "(95 % interval {low} to {high}).",
        by=FLOAT_BY.get(row.backend, "PyTorch"),
        right=number(row.right),
        images=number(row.images),
        share=share(row.exact_match),
        low=share(row.ci95[0]),
        high=share(row.ci95[1]),
    )


def _backend(name: str) -> str:
    return {
        "device": phrase("a Sophgo device"),
        "simulator": phrase("the chip simulator, which runs the BModels themselves"),
        "emulator": phrase(
            "the emulator, which runs the compiler's own graph of each BModel on this CPU"
        ),
        **FLOAT_BY,
    }.get(name, name)


def _computed(rows: Sequence[Row], facts: Sequence[BModelFacts]) -> tuple[str, bool]:
    backends = list(dict.fromkeys(row.backend for row in rows if row.chip is not None))
    if not backends:
        return phrase("No BModel was run."), True
    text = phrase(
        "Logits of the BModels were computed by {backends}.",
        backends=listed([_backend(name) for name in backends]),
    )
    if "emulator" not in backends:
        return text, True
    checks = {one.id: one.crosscheck for one in facts if one.crosscheck}
    needed = {row.id for row in rows if row.backend == "emulator"}
    missing = needed - set(checks)
    if not checks:
        not_checked = phrase("The chip simulator did not check them in this run.")
        return sentences(text, not_checked), False
    images = sorted({int(figure(check, "images")) for check in checks.values()})
    span = (
        counted(images[0], "{count} image", "{count} images")
        if images[0] == images[-1]
        else phrase("{low} to {high} images", low=images[0], high=images[-1])
    )
    outcome = phrase(
        "The chip simulator ran {images} through the BModel: {outcome}."
        if len(checks) == 1
        else "The chip simulator ran {images} through each of {count} BModels: {outcome}.",
        images=span,
        count=len(checks),
        outcome=outcomes(checks.values()),
    )
    left = phrase("Not checked: {names}.", names=listed(sorted(missing))) if missing else ""
    return sentences(text, outcome, left), all(
        read_alike(one) for one in checks.values()
    ) and not missing


def _on_boxes(rows: Sequence[Row]) -> tuple[Text, bool]:
    """What boxes made of the models that they ran, and whether all of it is right."""
    said, agree = [], True
    for chip in dict.fromkeys(row.chip for row in rows):
        here = [row for row in rows if row.chip == chip]
        exact = [row for row in here if row.box and row.box.exact == row.images]
        found = [exactness_on_box(row) for row in here]
        wrong = sum(one is not None and one.state == "bad" for one in found)
        judges = sorted({row.box.judge for row in here if row.box})
        said.append(
            phrase(
                "A {chip} box ran all {images} images through {count} BModels: {parts}."
                if len(here) != 1
                else "A {chip} box ran all {images} images through {count} BModel: {parts}.",
                chip=chip,
                images=number(here[0].images),
                count=len(here),
                parts=_outcomes(len(exact), wrong, listed(map(judge_said, judges))),
            )
        )
        agree = agree and not wrong
    return sentences(*said), agree


def _outcomes(exact: int, wrong: int, judges: Text) -> Text:
    """How many of a box's models gave the expected logits, and how many read otherwise."""
    right = phrase("{count} with the logits of the {judges} to the bit", count=exact, judges=judges)
    if not wrong:
        return right
    return phrase("{right}, {wrong} with other readings", right=right, wrong=wrong)


def _warnings(metrics: Metrics) -> Iterable[tuple[str, str]]:
    source = metrics.data
    if source and source.source == "generated":
        yield (
            phrase("Generated plates, not photographs"),
            phrase(
                "The published test images were not used. These plates were drawn by this "
                "workbook's generator; accuracies here say how the models compare with each "
                "other, not how they read a camera's images, and they do not stand beside the "
                "published figures."
            ),
        )
    elif source and source.weights == "generated":
        yield (
            phrase("Weights of our own"),
            phrase(
                "The published weights were not used. These were trained by this workbook on "
                "generated plates."
            ),
        )
    if source and source.unlike:
        found = source.unlike
        yield (
            phrase("Plates unlike those of the calibration"),
            unlike_said(found.signs, found.plates, found.on),
        )
    if not metrics.rows:
        yield (phrase("Nothing was measured"), phrase("metrics.json has no rows."))


def _notes(metrics: Metrics, rows: Sequence[Row]) -> Iterable[str]:
    if 0 < metrics.dataset.images < FEW:
        widths = [row.ci95[1] - row.ci95[0] for row in rows if row.ci95]
        count = number(metrics.dataset.images)
        yield (
            phrase(
                "{count} images are a quick look (intervals up to {wide:.2f} wide): differences of "
                "a few plates cannot be seen. A run over all images narrows them.",
                count=count,
                wide=max(widths),
            )
            if widths
            else phrase(
                "{count} images are a quick look: differences of a few plates cannot be seen. A "
                "run over all images narrows them.",
                count=count,
            )
        )
    source = metrics.data
    if (
        source
        and source.calibration.among_evaluated
        and any(row.precision == "int8" for row in rows)
    ):
        yield phrase(
            "Calibration images are among the evaluated ones, so INT8 figures may flatter a little."
        )
    if source and (source.source, source.weights) == ("published", "published"):
        yield phrase(
            "The published images, nearly all from one province, are what the published weights "
            "know best: expect less on other plates."
        )
