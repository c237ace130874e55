"""The measured parts of docs/search.md: `python -m lprnet_nb.report.search_page`.

It rewrites what stands between ``<!-- found -->`` and ``<!-- /found -->``, ``<!-- band -->``
likewise, and ``docs/figures/search.svg``. A test holds the page to the committed data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..figures import as_svg
from ..figures import study as figures
from ..files import atomic_write
from ..places import repository
from ..study import band, searched
from ..study.results import committed_study, recommendations
from .blocks import filled, markdown_rows

PAGE = Path("docs") / "search.md"


def blocks() -> dict[str, str]:
    """What the page says of the committed searches and of the committed study, by tag.

    Raises
    ------
    DataError
        When the committed study is not there.
    """
    found, study = searched.committed_search(), committed_study()
    if study is None:
        raise DataError("the committed study is not in this checkout.")
    rows = band.band_table(band.band(study))
    made = {"found": "No search is in this checkout.", "band": markdown_rows(rows)}
    made["band"] += "\n\n" + "\n\n".join(map(str, band.band_said(study)))
    if found is not None:
        said = [*map(str, searched.said(found)), *_proved(found)]
        figure = "![Searched and made by hand: exact match against cost](figures/search.svg)"
        made["found"] = "\n\n".join([markdown_rows(_rows(found, study)), *said, figure])
    return made


def _rows(found: dict[str, Any], study: dict[str, Any]) -> list[dict[str, Any]]:
    """Searched, then what is recommended and the vendor's searches, a chip after the other."""
    others = searched.hand_made(found, study, searched.vendors())
    best = {line["chip"]: line for line in recommendations(study)}
    rows = []
    for chip in dict.fromkeys(line["chip"] for line in searched.lines(found)):
        rows += [
            _row(f"searched, within {line['budget']:g}", line)
            for line in searched.lines(found)
            if line["chip"] == chip
        ]
        rows += [
            _row(
                f"`{line['strategy']}`"
                + (", recommended" if line["strategy"] == best[chip]["strategy"] else ""),
                line,
                best[chip]["unbiased"]["mean"]
                if line["strategy"] == best[chip]["strategy"]
                else None,
            )
            for line in others
            if line["chip"] == chip
            and line["strategy"]
            in (best[chip]["strategy"], "mse-forked", "kl", "search-threshold", "search-qtable")
        ]
    return rows


def _row(name: str, line: dict[str, Any], nested: float | None = None) -> dict[str, Any]:
    return {
        "chip": line["chip"],
        "strategy": name,
        "cost": f"{line['cost']:.4f} {line['unit']}",
        "exact match": f"{line['mean']:.4f}" + (f" (nested {nested:.4f})" if nested else ""),
        "95 %": "–".join(f"{end:.3f}" for end in line["interval"]),
        "draws": line["draws"],
    }


def _proved(found: dict[str, Any]) -> list[str]:
    """What the BModels of the strategies to ship proved."""
    said = []
    for row in found["shipped"]:
        if "proof" in row:
            proof = row["proof"]
            time = proof["predicted_latency_ms"]
            fields = {key: v for key, v in row["strategy"].items() if key not in ("name", "about")}
            said.append(
                f"{row['chip']}, to ship within {row['budget']:g}: `{fields}`. Its BModel's graph "
                f"is the searched one: {'yes' if proof['same_graph'] else 'no'}; predicted "
                + (f"{time:.4f} ms" if time else "no time")
                + f"; the chip simulator reads {proof['simulator']['images']} plates with logits "
                f"that differ by {proof['simulator']['max_abs_difference']:.2g} at most."
            )
    return said


def figure_bytes(found: dict[str, Any]) -> bytes:
    """The figure of the front, SVG."""
    reference = found["float"]["correct"] / found["float"]["images"]
    others = searched.hand_made(found, committed_study(), searched.vendors())
    return as_svg(figures.front(searched.lines(found), others, reference))


if __name__ == "__main__":
    page = repository() / PAGE
    print(atomic_write(page, filled(page.read_text("utf8"), blocks())))
    if (there := searched.committed_search()) is not None:
        drawn = repository() / "docs" / "figures" / "search.svg"
        print(atomic_write(drawn, figure_bytes(there)))
