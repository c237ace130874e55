"""What notebook 06 shows: a small study, live, and the one that comes with the repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..errors import DataError
from ..figures import study as figures
from ..language import Text, counted, listed, phrase, text
from ..measure.data import Data
from ..measure.output import Output
from ..measure.parameters import NETWORK, Asked, Parameters
from ..study import (
    band,
    cells,
    details,
    replication,
    results,
    searched,
    sentences,
    upgrades,
)
from ..study.full import releases_of
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import packaged_study
from ..toolchain.strategies import Strategy, recommended
from .course import tell


def full_study(parameters: Parameters, data: Data) -> dict[str, Any] | None:
    """The study that is named, else LPRNet's committed one; None for another network without.

    Raises
    ------
    DataError
        For a study that cannot be read, or is of another network.
    """
    network = data.weights.of.name
    if not parameters.study:
        return results.committed_study() if network == NETWORK else None
    study = results.read_study(Path(parameters.study))
    of = study["provenance"].get("network", NETWORK)
    if of != network:
        raise DataError(
            f"study {parameters.study} is of network {of!r}. Name it in NETWORK, or another study."
        )
    return study


def plan_of(parameters: Parameters, data: Data) -> cells.Plan:
    """The live study: the parameters' strategies, cut to what is outside a fold, and the rest.

    Raises
    ------
    DataError
        For a network whose output is not decoded to texts, which a study counts.
    """
    if data.weights.of.interface.kind != "ctc":
        raise DataError(
            f"network {data.weights.of.name} gives logits that are not decoded to texts, and a "
            "study counts texts. Notebooks 03 to 05 compare its logits."
        )
    outside = len(data.plates) * (parameters.folds - 1) // parameters.folds
    chip = parameters.chips[0]
    strategies = tuple(_on_chip(one, chip).cut_to(outside) for one in parameters.strategies)
    release, calibrated_by = releases_of(parameters)
    return cells.Plan(
        strategies,
        parameters.chips,
        tuple(range(parameters.draws)),
        parameters.folds,
        release=release,
        calibrated_by=calibrated_by,
    )


def _on_chip(asked: Asked, chip: str) -> Strategy:
    strategy = asked.by_chip[chip]
    assert isinstance(strategy, Strategy)  # `course.checked` refuses TPU-NNTC for this notebook
    return strategy


def live_study(parameters: Parameters, data: Data, plan: cells.Plan) -> dict[str, Any]:
    """The study of a plan; with packaged graphs the one that was packaged, of this plan or not."""
    if parameters.toolchain == PACKAGED:
        return packaged_study()
    return cells.run_study(plan, data.plates, data.weights)


def opening(parameters: Parameters, data: Data, full: dict[str, Any] | None) -> str:
    """What the live study and the full one are made of."""
    whole = (
        sentences.tried(full)
        if full
        else phrase("not in this checkout, the live one stands for it")
    )
    if parameters.toolchain == PACKAGED:
        return phrase(
            "live: none, but a packaged one of {images} generated plates; full: {full}",
            images=packaged_study()["float"]["images"],
            full=whole,
        )
    return phrase(
        "live: {images} images of {name}, {draws}, {folds} folds; full: {full}",
        images=len(data.plates),
        name=data.plates.name,
        draws=counted(parameters.draws, "{count} draw", "{count} draws"),
        folds=parameters.folds,
        full=whole,
    )


@dataclass(frozen=True)
class Shown:
    """A study as the notebook shows it.

    Attributes
    ----------
    study
        See `study.cells.run_study`.
    lines
        `study.results.summarize`'s, the best strategy first.
    reference
        Float's exact match.
    """

    study: dict[str, Any]
    lines: list[dict[str, Any]]
    reference: float

    def of_chip(self, chip: str) -> list[dict[str, Any]]:
        """Lines of one chip."""
        return [line for line in self.lines if line["chip"] == chip]


def shown(study: dict[str, Any], baseline: str = "kl") -> Shown:
    """A study with its summary."""
    found = study["float"]
    return Shown(
        study,
        results.ranked(results.summarize(study, baseline=baseline)),
        found["correct"] / found["images"],
    )


def chips_shown(parameters: Parameters, one: Shown) -> list[str]:
    """The wanted chips that the study has; all of its chips where it has none of them."""
    there = list(dict.fromkeys(line["chip"] for line in one.lines))
    return [chip for chip in parameters.chips if chip in there] or there


def of_chips(one: Shown, chips: Sequence[str]) -> Shown:
    """A study as if these chips were all that it has."""
    study = {
        key: [row for row in value if row["chip"] in chips]
        if isinstance(value, list) and all("chip" in row for row in value)
        else value
        for key, value in one.study.items()
    }
    return Shown(study, [line for line in one.lines if line["chip"] in chips], one.reference)


def accuracy_figures(output: Output, one: Shown) -> None:
    """A figure of each chip: exact match by strategy."""
    for chip in dict.fromkeys(line["chip"] for line in one.lines):
        output.figure(
            figures.accuracy(one.of_chip(chip), one.reference),
            f"06_accuracy_{chip}",
            phrase("{chip}: exact match by strategy.", chip=chip),
        )


def pareto_figures(output: Output, one: Shown) -> None:
    """A figure of each chip of which the compiler predicts times: exact match against them."""
    for chip in dict.fromkeys(line["chip"] for line in one.lines):
        if any(line.get("latency_ms") for line in one.of_chip(chip)):
            output.figure(
                figures.pareto(one.of_chip(chip), one.reference),
                f"06_pareto_{chip}",
                phrase("{chip}: exact match against predicted time.", chip=chip),
            )
        else:
            tell(phrase("{chip}: the compiler predicts no time.", chip=chip))


def tips(one: Shown) -> tuple[results.Tip, ...]:
    """The tips, and training (QAT) beside what is shipped."""
    shipped = dict.fromkeys(recommended(row["chip"]).name for row in one.study["rows"])
    pairs = tuple(("qat", name) for name in shipped)
    return (*results.TIPS, results.Tip(phrase("training instead of what is shipped"), pairs))


def verdicts_figure(one: Shown) -> Figure | None:
    """Every tip's verdict by chip, in one matrix; None where the study judges no tip."""
    found = results.verdicts(one.study, tips(one))
    return figures.verdict_matrix(found) if found else None


def verdicts_said(one: Shown) -> Text:
    """How many tips hold on every chip that tried them, on some and on none."""
    by_tip: dict[tuple[str, str, str], list[str]] = {}
    for line in results.verdicts(one.study, tips(one)):
        key = line["tip"], line["strategy"], line["baseline"]
        by_tip.setdefault(key, []).append(line["verdict"])
    holds = [
        phrase("{one} over {other}", one=s, other=b)
        for (_, s, b), v in by_tip.items()
        if set(v) == {"holds"}
    ]
    fails = sum("does not hold" in found for found in by_tip.values())
    return phrase(
        "of {count} comparisons, those that hold on every chip tried: {holds}; {fails} do not hold "
        "on one chip or more.",
        count=len(by_tip),
        holds=listed(holds) or phrase("none"),
        fails=fails,
    )


def worlds_shown(output: Output) -> list[Text]:
    """The findings in other worlds: their figure and table, and what they say."""
    told = replication.replicated()
    if told is None:
        return [phrase("The study over worlds is not in this checkout.")]
    output.figure(
        figures.forest(told, replication.named(told)),
        "06_worlds",
        phrase("Gain of each finding with other weights and on other plates, and its verdict."),
    )
    table = phrase("In how many other worlds each holds / does not hold / cannot be told.")
    output.table("06_worlds", replication.worlds_table(told), table)
    return replication.said(told)


def origins_said(one: Shown) -> list[Text]:
    """What other calibration images change: those that are judged, and generated plates."""
    found = results.origins(one.study)
    gains: dict[str, list[float]] = {}
    for line in found:
        gains.setdefault(line["scheme"], []).append(100 * line["difference"])
    return [
        phrase(
            "Calibrated on the judged plates instead, {count} strategies change by {low:+.1f} to "
            "{high:+.1f} points."
            if scheme == cells.WITHIN
            else "Calibrated on generated plates instead, {count} strategies change by {low:+.1f} "
            "to {high:+.1f} points.",
            count=len(points),
            low=min(points),
            high=max(points),
        )
        for scheme, points in gains.items()
    ]


def sensitivity(one: Shown, data: Data, plan: cells.Plan) -> list[dict[str, Any]]:
    """What each role costs: the study's, or of a few images where it has none."""
    base = plan.strategies[0].model_copy(update={"images": min(20, len(data.plates) // 2)})
    return one.study.get("sensitivity") or details.sensitivity(
        data.plates, data.weights, plan.chips[:1], base, images=40
    )


def company(one: Shown, data: Data, plan: cells.Plan) -> list[dict[str, Any]]:
    """How readings depend on the other images of a batch: the study's, or made here."""
    few = min(plan.strategies[0].images, len(data.plates) // 2)
    return one.study.get("company") or details.company(
        data.plates, data.weights, plan.chips, plan.strategies[0].model_copy(update={"images": few})
    )


def compiled(one: Shown, data: Data, plan: cells.Plan) -> Shown:
    """A study with its BModels, their times and proof (`study.details.models`).

    Where it has none, they are compiled here and proven on two images.
    """
    if one.study.get("models"):
        return one
    made = details.models(plan, data.plates, data.weights, images=2)
    times = {(row["strategy"], row["chip"]): row["predicted_latency_ms"] for row in made}
    lines = [
        line | {"latency_ms": times.get((line["strategy"], line["chip"]))} for line in one.lines
    ]
    return Shown(one.study | {"models": made}, lines, one.reference)


def shipped(one: Shown) -> list[dict[str, Any]]:
    """The recommendation for each chip, what choosing it is worth, and the grammar's reading."""
    plate = results.committed_study("plate")
    if plate and any(
        plate["provenance"][of] != one.study["provenance"][of] for of in ("plates", "weights")
    ):
        plate = None  # of other readings
    grammar = {(x["strategy"], x["chip"]): x for x in results.summarize(plate)} if plate else {}
    return [
        {
            "chip": line["chip"],
            "strategy": line["strategy"],
            "exact match": line["mean"],
            "lowest draw": line["low"],
            "highest draw": line["high"],
            "on plates that did not choose it": line["unbiased"].get("mean"),
            "float": one.reference,
            "predicted ms": line["latency_ms"],
            "with the grammar": grammar.get((line["strategy"], line["chip"]), {}).get("mean"),
        }
        for line in results.recommendations(one.study)
    ]


def shipped_shown(output: Output, one: Shown) -> list[Text]:
    """The table of what to ship, and a line for each chip on which that is nothing."""
    rows = shipped(one)
    output.table("06_recommended", rows, phrase("The strategy to ship on each chip."))
    chips = dict.fromkeys(line["chip"] for line in one.lines)
    return [
        counted(
            len(one.of_chip(chip)),
            "{chip}: nothing to ship was found: the one strategy tried takes more time or work in "
            "float than is allowed, or a draw puts it significantly below float.",
            "{chip}: nothing to ship was found: each of the {count} strategies tried takes more "
            "time or work in float than is allowed, or a draw puts it significantly below float.",
            chip=chip,
        )
        for chip in chips
        if chip not in {row["chip"] for row in rows}
    ]


def releases_shown(output: Output) -> list[str]:
    """The study over releases: its figure and tables, and what it says, or that there is none."""
    study = upgrades.committed_releases()
    if study is None:
        return [phrase("The study over releases is not in this checkout.")]
    lines = upgrades.summarize(study)
    caption = phrase("Exact match and predicted time of INT8 models along the compiler's releases.")
    output.figure(figures.releases(lines), "06_releases", caption)
    output.json("06_releases_paired", lines)  # each line against the pinned release
    output.table(
        "06_releases",
        upgrades.by_release(lines),
        phrase("Exact match by chip and strategy, and what BM1684X is predicted to take."),
    )
    output.table(
        "06_changes",
        [
            one
            for one in upgrades.changes(study)
            if one["calibration"] or one["lowering"] or one["code"]
        ],
        phrase("What changed from release to release."),
    )
    placed = study.get("published", [])
    if placed:
        output.table(
            "06_published",
            [{**row, "verdict": text(row["verdict"])} for row in placed],
            phrase("Published INT8 figures by the vendor's recipe."),
        )
    return [*upgrades.said(study), upgrades.published_said(placed)]


def search_shown(output: Output, one: Shown) -> list[str]:
    """The committed searches beside what was made by hand, and what a study can see at all."""
    output.table("06_band", band.band_table(band.band(one.study)), phrase("The band of chance."))
    seen = band.band_said(one.study)
    found = searched.committed_search()
    if found is None:
        return [*seen, phrase("No search is in this checkout.")]
    reference = found["float"]["correct"] / found["float"]["images"]
    others = searched.hand_made(found, results.committed_study(), searched.vendors())
    output.figure(
        figures.front(searched.lines(found), others, reference),
        "06_search",
        phrase("What a search over all layers finds, beside what was made by hand."),
    )
    return [*searched.said(found), *seen]
