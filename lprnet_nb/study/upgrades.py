"""What the study over releases says: accuracy and time along releases, and what changed where."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import repository
from ..evaluate.paired import holm, mcnemar_exact
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
        plate once, whatever the number of draws), ``p_holm`` corrected for all lines;
        ``same_logits``, draws in which every logit is the same; ``predicted_ms``.
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
                **_paired(own, base, study["provenance"]),
                "same_logits": sum(
                    logits[release, chip, strategy, draw] == logits[PINNED, chip, strategy, draw]
                    for draw in own
                ),
                "predicted_ms": code.get((release, chip, strategy), {}).get("predicted_ms"),
            }
        )
    others = [line for line in lines if line["release"] != PINNED]
    for line, p in zip(others, holm([line["p"] for line in others]), strict=True):
        line["p_holm"] = float(p)
    return lines


def _paired(
    own: dict[int, np.ndarray], base: dict[int, np.ndarray], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Differences on the plates of each draw, added up plate by plate."""
    from .releases import draws

    count = provenance["plates"]["images"]
    total, judged = np.zeros(count, int), 0
    for split in draws(count, provenance["draws"]):
        if split.draw in own and split.draw in base:
            apart = own[split.draw].astype(int) - base[split.draw]
            total[split.evaluate] += apart
            judged += len(apart)
    test = mcnemar_exact(total > 0, total < 0)
    return {
        "difference": float(total.sum() / judged),
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


def said(study: dict[str, Any]) -> list[str]:
    """The study over releases in sentences, all computed from it."""
    lines, moved = summarize(study), changes(study)
    studied = list(dict.fromkeys(line["release"] for line in lines))
    others = [line for line in lines if line["release"] != PINNED]
    lacking = [version for version in VERSIONS if version not in studied]
    found = [
        f"{len(studied)} of {len(VERSIONS)} releases on {study['provenance']['draws']} draws"
        + (f"; not run: {', '.join(lacking)}." if lacking else ".")
    ]
    same = [line for line in others if line["same_logits"] == line["draws"]]
    found.append(
        f"{len(same)} of {len(others)} combinations of release, chip and strategy have the logits "
        f"of {PINNED} to the bit on every draw."
    )
    beyond = [line for line in others if line["p_holm"] < LEVEL]
    found += [
        f"{line['release']} {line['chip']} {line['strategy']}: {100 * line['difference']:+.1f} "
        f"points against {PINNED}, corrected p {line['p_holm']:.2g}."
        for line in beyond
    ]
    apart = [line for line in others if line not in same]
    if apart and not beyond:
        most = max(apart, key=lambda line: abs(line["difference"]))
        found.append(
            f"No release reads better or worse than {PINNED} by more than chance would bring; the "
            f"largest difference is {100 * most['difference']:+.1f} points ({most['release']}, "
            f"{most['chip']}, {most['strategy']}, corrected p {most['p_holm']:.2g})."
        )
    for what in ("calibration", "lowering", "code"):
        at = [_where(one) for one in moved if one[what]]
        found.append(f"The {what} changed {_listed(at)}." if at else f"The {what} never changed.")
    return found + _times(lines)


def _where(change: dict[str, Any]) -> str:
    """The release that changed something, or the two between which it lies."""
    before, release = change["before"], change["release"]
    adjacent = VERSIONS.index(release) == VERSIONS.index(before) + 1
    return f"with {release}" if adjacent else f"between {before} and {release}"


def _times(lines: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    for strategy in ("kl", "recommended"):
        timed = [
            line
            for line in lines
            if line["strategy"] == strategy and line["chip"] == "BM1684X" and line["predicted_ms"]
        ]
        if len(timed) > 1:
            first, last = timed[0], timed[-1]
            found.append(
                f"BM1684X, {strategy}: {first['predicted_ms']:.3f} ms predicted by "
                f"{first['release']}, {last['predicted_ms']:.3f} by {last['release']}."
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def published_said(rows: Sequence[dict[str, Any]]) -> str:
    """How many published INT8 figures the vendor's recipe, or the spread of draws, explains."""
    count = {
        verdict: [f"{r['chip']} batch {r['batch']}" for r in rows if r["verdict"] == verdict]
        for verdict in ("explained", "within the spread", "not explained")
    }
    parts = [
        f"{len(names)} {verdict} ({', '.join(names)})" for verdict, names in count.items() if names
    ]
    return f"Of {len(rows)} published INT8 figures: {_listed(parts)}." if rows else ""
