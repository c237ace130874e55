"""What the study over releases says: accuracy and time along releases, and what changed where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.paired import holm, over_draws
from ..language import Text, counted, listed, phrase, sentences
from ..places import repository
from ..toolchain.releases import PINNED, VERSIONS
from .cells import unpack
from .releases import read_releases

LEVEL = 0.05  # of p after correction


def committed_releases() -> dict[str, Any] | None:
    """The newest study over releases that comes with the repository, or None."""
    found = sorted((repository() / "data" / "studies" / "releases").glob("*.json"))
    return read_releases(Path(found[-1])) if found else None


def outcomes(
    study: dict[str, Any], release: str, chip: str, strategy: str
) -> dict[int, np.ndarray]:
    """Which of the judged plates were read right, bool by draw; empty where it was refused."""
    rows = {
        (row["release"], row["chip"], row["strategy"], row["draw"]): row
        for row in study["rows"]
        if "refused" not in row
    }
    found = {}
    for (r, c, s, draw), row in rows.items():
        if (r, c, s) == (release, chip, strategy):
            bits = row.get("bits") or rows[row["as"], c, s, draw]["bits"]
            found[draw] = unpack(bits, row["images"])
    return found


def summarize(study: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each release, chip and strategy, in order of the releases.

    Returns
    -------
    list of dict
        ``mean, low, high`` of exact match over ``draws``; against the pinned release on the same
        draws and plates ``difference``, ``better`` and ``worse`` (plates that it reads right in
        more, or in fewer, draws) and ``p`` (exact sign test over these plates, which counts a
        plate once, whatever the number of draws); ``same_logits``, draws in which every logit is
        the same; ``predicted_ms``. ``same_as`` is the first release with the logits of this line
        (the pinned one before all others), and ``p_holm`` is corrected for the comparisons that
        differ by more than the release's name: copies are one test, and the pinned one's own
        logits are none.
    """
    code = {(c["release"], c["chip"], c["strategy"]): c for c in study["code"]}
    logits = {
        (row["release"], row["chip"], row["strategy"], row["draw"]): row["logits"]
        for row in study["rows"]
        if "logits" in row
    }
    lines = []
    keys = dict.fromkeys(key[:3] for key in logits)
    for release, chip, strategy in sorted(keys, key=lambda key: VERSIONS.index(key[0])):
        own = outcomes(study, release, chip, strategy)
        base = outcomes(study, PINNED, chip, strategy)
        shares = [float(right.mean()) for right in own.values()]
        lines.append(
            {
                "release": release,
                "chip": chip,
                "strategy": strategy,
                "draws": len(own),
                "mean": float(np.mean(shares)),
                "low": min(shares),
                "high": max(shares),
                **_paired_row(own, base, study["provenance"]),
                "same_logits": sum(
                    logits[release, chip, strategy, draw] == logits[PINNED, chip, strategy, draw]
                    for draw in own
                ),
                "predicted_ms": code.get((release, chip, strategy), {}).get("predicted_ms"),
            }
        )
    _correct(lines, logits)
    return lines


def by_release(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`summarize`'s lines with a row for each release: means by chip and strategy, and times."""
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault(line["release"], {"release": line["release"]})
        row[f"{line['chip']} {line['strategy']}"] = line["mean"]
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    found = dict.fromkeys(key for row in rows.values() for key in row if key != "release")
    columns = ["release", *sorted(found, key=lambda key: chips.index(key.split()[0]))]
    for line in lines:
        if line["predicted_ms"] and line["chip"] == "BM1684X" and line["strategy"] != "mse":
            rows[line["release"]][f"ms {line['strategy']}"] = line["predicted_ms"]
    times = list(dict.fromkeys(key for row in rows.values() for key in row if key not in columns))
    return [{key: row.get(key) for key in (*columns, *times)} for row in rows.values()]


def _correct(lines: Sequence[dict[str, Any]], logits: dict[tuple[Any, ...], str]) -> None:
    """Put ``same_as`` and ``p_holm`` into the lines, see `summarize`."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: line["release"] != PINNED):
        key = line["release"], line["chip"], line["strategy"]
        read = tuple(sorted((k[3], v) for k, v in logits.items() if k[:3] == key))
        line["same_as"] = first.setdefault((*key[1:], read), line)["release"]
    tested = [line for line in first.values() if line["release"] != PINNED]
    corrected = holm([line["p"] for line in tested])
    p_of = {
        (line["release"], line["chip"], line["strategy"]): float(p)
        for line, p in zip(tested, corrected, strict=True)
    }
    for line in lines:
        if line["release"] != PINNED:
            line["p_holm"] = p_of.get((line["same_as"], line["chip"], line["strategy"]), 1.0)


def _paired_row(
    own: dict[int, np.ndarray], base: dict[int, np.ndarray], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Differences on the plates of each draw, added up plate by plate."""
    from .releases import draws

    count = provenance["plates"]["images"]
    both = [
        (split.evaluate, own[split.draw], base[split.draw])
        for split in draws(count, provenance["draws"])
        if split.draw in own and split.draw in base
    ]
    total, test = over_draws(count, both)
    return {
        "difference": float(total.sum() / sum(len(judged) for judged, *_ in both)),
        "better": test.b,
        "worse": test.c,
        "p": test.p,
    }


def changes(study: dict[str, Any]) -> list[dict[str, Any]]:
    """What changed from one studied release to the next: told by comparing, on the first draw.

    Returns
    -------
    list of dict
        ``before``, ``release``; ``calibration`` (its own KL thresholds give another graph),
        ``lowering`` (the pinned release's thresholds give another graph), ``code`` (another number
        of commands, or another predicted time, from the same graph), each a list of chips.
    """
    graphs = {
        (row["release"], row["chip"], row["strategy"]): row["graph"]
        for row in study["rows"]
        if row.get("draw") == 0 and "graph" in row
    }
    code = {
        (one["release"], one["chip"], one["strategy"]): [
            one[key] for key in ("compute", "memory", "bytes", "predicted_ms")
        ]
        for one in study["code"]
    }
    studied = sorted({key[0] for key in graphs}, key=VERSIONS.index)
    chips = list(dict.fromkeys(key[1] for key in graphs))

    def differ(table: dict[tuple[str, str, str], Any], *names: str) -> list[str]:
        return [
            chip
            for chip in chips
            if any(table.get((before, chip, n)) != table.get((after, chip, n)) for n in names)
        ]

    found = []
    for before, after in pairwise(studied):
        lowering = differ(graphs, "recommended")
        found.append(
            {
                "before": before,
                "release": after,
                "calibration": [c for c in differ(graphs, "kl") if c not in lowering],
                "lowering": lowering,
                "code": differ(code, "kl", "recommended"),
            }
        )
    return found


def said(study: dict[str, Any]) -> list[Text]:
    """The study over releases in sentences, all computed from it."""
    lines, moved = summarize(study), changes(study)
    studied = list(dict.fromkeys(line["release"] for line in lines))
    others = [line for line in lines if line["release"] != PINNED]
    lacking = [version for version in VERSIONS if version not in studied]
    same = [line for line in others if line["same_logits"] == line["draws"]]
    found = [
        phrase(
            "{count} of {all} releases on {draws}; not run: {lacking}."
            if lacking
            else "{count} of {all} releases on {draws}.",
            count=len(studied),
            all=len(VERSIONS),
            draws=counted(study["provenance"]["draws"], "{count} draw", "{count} draws"),
            lacking=", ".join(lacking),
        ),
        phrase(
            "{same} of {all} combinations of release, chip and strategy have the logits of "
            "{pinned} to the bit on every draw.",
            same=len(same),
            all=len(others),
            pinned=PINNED,
        ),
    ]
    return [
        *found,
        *_readings([line for line in others if line not in same], others),
        *_changes(moved),
        *_times(lines),
    ]


def _readings(apart: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> Iterator[Text]:
    """Which releases read better or worse than the pinned one."""
    beyond = [line for line in others if line["p_holm"] < LEVEL]
    for line in beyond:
        if line["same_as"] == line["release"]:
            alike = [
                other["release"]
                for other in beyond
                if all(other[key] == line[key] for key in ("same_as", "chip", "strategy"))
            ]
            yield phrase(
                "{releases} {chip} {strategy}: {points:+.1f} points against {pinned} on these "
                "draws, corrected p {p:.2g}.",
                releases=listed(alike),
                **_named(line),
            )
    if apart and not beyond:
        most = max(apart, key=lambda line: abs(line["difference"]))
        yield phrase(
            "No release reads better or worse than {pinned} by more than chance would bring; the "
            "largest difference is {points:+.1f} points ({release}, {chip}, {strategy}, corrected "
            "p {p:.2g}).",
            **_named(most),
        )


def _named(line: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: line[key] for key in ("release", "chip", "strategy")},
        "points": 100 * line["difference"],
        "p": line["p_holm"],
        "pinned": PINNED,
    }


def _changes(moved: Sequence[dict[str, Any]]) -> Iterator[Text]:
    """With which releases thresholds, graphs and code changed."""
    names = {
        "calibration": phrase("calibration"),
        "lowering": phrase("lowering"),
        "code": phrase("code"),
    }
    for key, what in names.items():
        at = [_where(one) for one in moved if one[key]]
        yield phrase(
            "The {what} changed {at}." if at else "The {what} never changed.",
            what=what,
            at=listed(at),
        )


def _where(change: dict[str, Any]) -> Text:
    """The release that changed something, or the two between which it lies."""
    before, release = change["before"], change["release"]
    adjacent = VERSIONS.index(release) == VERSIONS.index(before) + 1
    return phrase(
        "with {release}" if adjacent else "between {before} and {release}",
        before=before,
        release=release,
    )


def _times(lines: Sequence[dict[str, Any]]) -> Iterator[Text]:
    for strategy in ("kl", "recommended"):
        timed = [
            line
            for line in lines
            if line["strategy"] == strategy and line["chip"] == "BM1684X" and line["predicted_ms"]
        ]
        if len(timed) > 1:
            first, last = timed[0], timed[-1]
            yield phrase(
                "BM1684X, {strategy}: {old:.3f} ms predicted by {first}, {new:.3f} by {last}.",
                strategy=strategy,
                old=first["predicted_ms"],
                first=first["release"],
                new=last["predicted_ms"],
                last=last["release"],
            )


def published_said(rows: Sequence[dict[str, Any]]) -> Text:
    """How many published INT8 figures the vendor's recipe, or the spread of draws, explains."""
    if not rows:
        return sentences()
    verdicts = {
        "explained": phrase("explained"),
        "within the spread": phrase("within the spread"),
        "not explained": phrase("not explained"),
    }
    count = {
        verdict: [f"{r['chip']} batch {r['batch']}" for r in rows if r["verdict"] == verdict]
        for verdict in verdicts
    }
    parts = [
        phrase(
            "{count} {verdict} ({names})",
            count=len(names),
            verdict=verdicts[verdict],
            names=", ".join(names),
        )
        for verdict, names in count.items()
        if names
    ]
    return phrase(
        "Of {count} published INT8 figures: {parts}.", count=len(rows), parts=listed(parts)
    )
