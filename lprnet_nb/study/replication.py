"""What the study over worlds says: which findings hold with other weights and on other plates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluate.paired import holm, over_draws
from ..language import Text, listed, phrase
from ..places import repository
from .cells import CROSS_FIT
from .results import LEVEL, TIPS, Tip, committed_study, outcomes, verdicts
from .worlds import COMMITTED, STUDIED, read_worlds

VERDICTS = ("holds", "does not hold", "cannot be told")
LEAST_READ = 0.1  # of exact match in float: where less is read, no gain could be half a point


def _asked() -> tuple[Tip, ...]:
    """The tips of which both strategies are studied, and all that is recommended at once."""
    pairs = {tip.title: tuple(p for p in tip.pairs if {*p} <= {*STUDIED}) for tip in TIPS}
    whole = Tip(
        phrase("the recommended form and float layers, against the default"),
        (("mse-forked-b4-square", "kl"),),
    )
    return (*(Tip(title, kept) for title, kept in pairs.items() if kept), whole)


FINDINGS = _asked()
PLATES = {
    "photographs": phrase("photographs"),
    "margin+5": phrase("margin {margin}", margin="5/10 %"),
    "margin+10": phrase("margin {margin}", margin="10/20 %"),
    "margin+20": phrase("margin {margin}", margin="20/40 %"),
    "generated": phrase("generated plates"),
}
WEIGHTS = {"published": phrase("published weights"), "generated": phrase("own weights")}


def worlds_path() -> Path | None:
    """The newest study over worlds that comes with the repository, or None."""
    return max((repository() / "data" / "studies" / "worlds").glob("*.json"), default=None)


def study_of(found: Mapping[str, Any], world: Mapping[str, Any]) -> dict[str, Any]:
    """One world of a file as a study of its own, for all that reads studies."""
    key = {name: world[name] for name in ("plates", "weights")}
    return {
        "format": 1,
        "provenance": found["provenance"],
        "float": world["float"],
        "rows": [
            {**row, "scheme": CROSS_FIT}
            for row in found["rows"]
            if all(row[name] == value for name, value in key.items())
        ],
    }


def lines(
    found: Mapping[str, Any], original: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One line per world, finding and chip.

    Parameters
    ----------
    found
        A file of `worlds.grow_worlds`.
    original
        The study that is asked again, as the first world; its chips are cut to those of `found`.

    Returns
    -------
    list of dict
        `results.verdicts`' fields with ``plates, weights``, ``float`` (exact match), ``better`` and
        ``worse`` (plates that the advice reads right in more, or in fewer, draws than without it)
        and ``p``: the exact sign test over these plates, which counts a plate once whatever the
        number of draws, corrected by Holm for all lines. Where float reads less than `LEAST_READ`,
        the verdict is that nothing can be told.
    """
    chips = {row["chip"] for row in found["rows"]}
    worlds = [
        ({"plates": world["plates"], "weights": world["weights"]}, study_of(found, world))
        for world in found["worlds"]
    ]
    if original is not None:
        rows = [row for row in original["rows"] if row["chip"] in chips]
        worlds.insert(0, (dict(zip(("plates", "weights"), COMMITTED)), {**original, "rows": rows}))
    made = [
        {**key, "float": _share(study["float"]), **line, **_signs(study, line)}
        for key, study in worlds
        for line in verdicts(study, FINDINGS)
    ]
    for line, p in zip(made, holm([line["p"] for line in made]), strict=True):
        line["p"] = float(p)
        if line["float"] < LEAST_READ:
            line["verdict"] = VERDICTS[-1]
    return made


def _share(read: Mapping[str, Any]) -> float:
    return float(read["correct"] / read["images"])


def _signs(study: dict[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Plates that gain and that lose over the draws, and the chance of such a parting."""
    ours, theirs = (outcomes(study, line[key], line["chip"]) for key in ("strategy", "baseline"))
    draws = [(slice(None), ours[draw], theirs[draw]) for draw in ours.keys() & theirs.keys()]
    _, test = over_draws(study["float"]["images"], draws)
    return {"better": test.b, "worse": test.c, "p": test.p}


def counts(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """In how many worlds each finding holds, by chip: worlds other than the committed study's.

    Returns
    -------
    list of dict
        ``tip, strategy, baseline, chip``, ``worlds``, a count for each of `VERDICTS`, ``first``
        (the verdict in the committed study, or None) and ``beyond``: worlds in which the corrected
        p is below `LEVEL`.
    """
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for line in told:
        key = line["tip"], line["strategy"], line["baseline"], line["chip"]
        found.setdefault(key, []).append(line)
    made = []
    for key, here in found.items():
        first = [x for x in here if (x["plates"], x["weights"]) == COMMITTED]
        others = [x for x in here if (x["plates"], x["weights"]) != COMMITTED]
        made.append(
            {
                **dict(zip(("tip", "strategy", "baseline", "chip"), key)),
                "worlds": len(others),
                **{verdict: sum(x["verdict"] == verdict for x in others) for verdict in VERDICTS},
                "first": first[0]["verdict"] if first else None,
                "beyond": sum(x["p"] < LEVEL for x in others),
            }
        )
    return made


def said(told: Sequence[Mapping[str, Any]]) -> list[Text]:
    """How often findings hold elsewhere, where nothing is told, and what survives correction."""
    others = [line for line in told if (line["plates"], line["weights"]) != COMMITTED]
    number = {verdict: sum(x["verdict"] == verdict for x in others) for verdict in VERDICTS}
    draws = [line["draws"] for line in others]
    dim = {(x["plates"], x["weights"]): x["float"] for x in others if x["float"] < LEAST_READ}
    beyond = [line for line in others if line["p"] < LEVEL]
    return [
        phrase(
            "{count} comparisons in {worlds} other worlds, {least} to {most} draws each: the "
            "advice holds in {holds}, does not in {fails}, and in {open} it cannot be told.",
            count=len(others),
            worlds=len({(line["plates"], line["weights"]) for line in others}),
            least=min(draws),
            most=max(draws),
            holds=number["holds"],
            fails=number["does not hold"],
            open=number["cannot be told"],
        ),
        *(
            phrase(
                "{world}: float reads {share:.3f} there, too little to tell anything.",
                world=named(told)[key],
                share=share,
            )
            for key, share in dim.items()
        ),
        phrase(
            "Corrected for all {count} comparisons (exact sign test, Holm), {gains} gains and "
            "{losses} losses in other worlds are beyond chance: {which}.",
            count=len(told),
            gains=sum(line["difference"] > 0 for line in beyond),
            losses=sum(line["difference"] < 0 for line in beyond),
            which=listed([_which(key, beyond) for key in _pairs(beyond)]) or phrase("none"),
        ),
    ]


def _pairs(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((line["strategy"], line["baseline"]) for line in told))


def _which(pair: tuple[str, str], told: Sequence[Mapping[str, Any]]) -> Text:
    return phrase(
        "{one} over {other} ({count})",
        one=pair[0],
        other=pair[1],
        count=sum((line["strategy"], line["baseline"]) == pair for line in told),
    )


def named(told: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Text]:
    """What is written of each world, by weights."""
    keys = dict.fromkeys((line["plates"], line["weights"]) for line in told)
    ordered = sorted(
        keys, key=lambda key: (list(WEIGHTS).index(key[1]), list(PLATES).index(key[0]))
    )
    return {
        (plates, weights): phrase(
            "{weights}: {plates}", weights=WEIGHTS[weights], plates=PLATES[plates]
        )
        for plates, weights in ordered
    }


def worlds_table(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`counts` for reading, a row a finding: holds / does not hold / cannot be told, by chip."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in counts(told):
        key = one["tip"], one["strategy"], one["baseline"]
        row = rows.setdefault(key, {"advice": key[0], "pair": f"{key[1]} over {key[2]}"})
        row[one["chip"]] = " / ".join(str(one[verdict]) for verdict in VERDICTS)
    return list(rows.values())


def replicated() -> list[dict[str, Any]] | None:
    """`lines` of the committed files, or None where there is no study over worlds."""
    path = worlds_path()
    return lines(read_worlds(path), committed_study()) if path else None
