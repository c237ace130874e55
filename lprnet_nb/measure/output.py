"""What a notebook leaves: figures, tables and values, shown and, in a report, written."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ..errors import ParameterError
from ..figures.style import as_svg, redrawn
from ..files import atomic_write
from ..language import ENGLISH, LANGUAGES, Text, heading, spoken, text, within
from .badge import STATES, Badge

# Of badges where no report's style sheet is, such as JupyterLab: readable on light and dark.
BADGES: list[Any] = [
    {
        "selector": ".tag",
        "props": "padding: 1px 8px; border-radius: 9px; background: #e6e8ec; color: #1b2430",
    },
    {"selector": ".tag.good", "props": "background: #e3f4ec; color: #0a6b47"},
    {"selector": ".tag.bad", "props": "background: #fdeae3; color: #a3300b"},
]
SVG_LIMIT = 300_000  # bytes; a heavier figure is drawn as PNG


def show(make: Callable[[str], dict[str, Any]]) -> None:
    """Show an output in the language spoken; a report's pages find it in every language.

    Parameters
    ----------
    make
        What stands there in a language: the data of an nbformat output, by MIME type. Its
        ``"metadata"``, if any, is the output's.
    """
    from IPython import get_ipython
    from IPython.display import display

    found = {language: make(language) for language in LANGUAGES}
    data = {key: value for key, value in found[spoken()].items() if key != "metadata"}
    kept = {k: v for k, v in found.items() if k != spoken()}
    about = found[spoken()].get("metadata", {})
    if get_ipython() is None:  # a script: what can be printed is
        print(*(data[key] for key in ("text/plain", "text/markdown") if key in data))
        return
    display(data, raw=True, metadata={**about, "languages": kept})


class Output:
    """Shows results, and writes them into a report's folder when there is one.

    Parameters
    ----------
    folder
        The report's folder, or None to show only.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder else None

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Show a figure; write ``figures/<name>.svg`` (or ``.png`` where that is lighter).

        Beside it, ``<name>.zh.svg`` has the words of the other language, where it has some.
        """
        caption = text(caption)
        if self.folder:
            self._write_figure(figure, name, caption)
        shown = io.BytesIO()
        figure.savefig(shown, format="png", dpi=144)
        # A Figure made without pyplot has no display of its own in a notebook.
        show(
            lambda language: {
                **({"image/png": _base64(shown)} if language == spoken() else {}),
                "metadata": {
                    "image/png": {
                        "width": int(96 * figure.get_figwidth()),
                        "alt": within(caption, language),
                    },
                    # Where a report's page finds it in its language, for light and dark.
                    **({"figure": _checked(name)} if self.folder else {}),
                },
            }
        )

    def _write_figure(self, figure: Figure, name: str, caption: str) -> None:
        english = _drawn(redrawn(figure, ENGLISH))
        files = {ENGLISH: f"{name}.{english[0]}"}
        atomic_write(self._path("figures", name, english[0]), english[1])
        for language in [one for one in LANGUAGES if one != ENGLISH]:
            kind, data = _drawn(redrawn(figure, language))
            if data != english[1]:
                files[language] = f"{name}.{language}.{kind}"
                atomic_write(self._path("figures", f"{name}.{language}", kind), data)
        others = {language: file for language, file in files.items() if language != ENGLISH}
        facts = {"file": files[ENGLISH], **({"files": others} if others else {})}
        self._write("figures", name, {**facts, **_captions(caption)})

    def table(self, name: str, rows: list[dict[str, Any]], caption: str) -> None:
        """Show a table, also from within an ``if``; write ``tables/<name>.json``.

        One without rows is neither shown nor written.
        """
        if not rows:
            return
        caption = text(caption)
        if self.folder:
            value = {**_captions(caption), "rows": within(rows, ENGLISH), **_cells(rows)}
            self._write("tables", name, value)

        def table(language: str) -> dict[str, str]:
            there = [
                {
                    within(heading(key), language): _shown(cell, language)
                    for key, cell in row.items()
                }
                for row in rows
            ]
            shown = pd.DataFrame(there).style.set_uuid(name).hide(axis="index")
            # What is text in the rows is text in the page, whatever it looks like.
            shown = shown.set_caption(html.escape(within(caption, language)))
            shown = shown.format_index(escape="html", axis=1).set_table_styles(BADGES)
            cells: dict[Any, Any] = {
                key: partial(as_cell, decimals=decimals([row.get(key) for row in there]))
                for key in dict.fromkeys(key for row in there for key in row)
            }
            return {"text/html": shown.format(cells, na_rep="–", escape="html").to_html()}

        show(table)

    def json(self, name: str, value: Any) -> None:
        """Write ``<name>.json`` into the report's folder."""
        if self.folder:
            atomic_write(self.folder / f"{_checked(name)}.json", to_json(value))

    def _path(self, part: str, name: str, kind: str) -> Path:
        assert self.folder is not None  # nothing is written without one
        return self.folder / part / f"{_checked(name)}.{kind}"

    def _write(self, part: str, name: str, value: Any) -> None:
        atomic_write(self._path(part, name, "json"), to_json(value))


def _shown(cell: Any, language: str) -> Any:
    """A cell in a language; a badge as HTML, in a report's page of the page's own colours."""
    said = within(cell, language)
    if not isinstance(cell, Badge):
        return said
    return Markup('<span class="tag {}">{}</span>').format(STATES[cell.state], said)


def _captions(caption: str) -> dict[str, Any]:
    """A caption as it is written: English first, then what it is in other languages."""
    others = {
        language: said
        for language in LANGUAGES
        if (said := within(caption, language)) != within(caption, ENGLISH)
    }
    english = {"caption": within(caption, ENGLISH)}
    return {**english, "captions": others} if others else english


def _cells(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a page needs beside English cells: their other languages, and which are badges."""
    cells = [cell for row in rows for cell in row.values() if isinstance(cell, Text)]
    words = {
        language: said
        for language in LANGUAGES
        if (
            said := {
                cell.variants[ENGLISH]: cell.variants[language]
                for cell in cells
                if cell.variants[language] != cell.variants[ENGLISH]
            }
        )
    }
    badges = {cell.variants[ENGLISH]: cell.state for cell in cells if isinstance(cell, Badge)}
    return {k: v for k, v in (("words", words), ("badges", badges)) if v}


def _base64(png: io.BytesIO) -> str:
    return base64.b64encode(png.getvalue()).decode("ascii")


def decimals(column: Iterable[Any]) -> int:
    """How many decimals a column of a table needs, for four digits of its largest value at most.

    Examples
    --------
    >>> decimals([0.5, 0.1234567, None]), decimals([12.5, 6.25]), decimals([3.0, [4, 0.25]])
    (4, 2, 2)
    """
    cells = [one for cell in column for one in (cell if isinstance(cell, list) else [cell])]
    values = [one for one in cells if isinstance(one, float) and math.isfinite(one)]
    values = [one for one in values if not is_scientific(one)]
    most = max((abs(one) for one in values), default=0.0)
    limit = 4 if most < 1 else 3 - math.floor(math.log10(most))
    return max((len(f"{one:.{limit}f}".rstrip("0").partition(".")[2]) for one in values), default=0)


def is_scientific(value: float) -> bool:
    """Whether a number is too small or too large for decimals."""
    return bool(value) and not 0.001 <= abs(value) < 10000


def as_cell(value: Any, decimals: int) -> Any:
    """A value as a table shows it, its decimals as those of its column."""
    if isinstance(value, list):
        return ", ".join(str(as_cell(one, decimals)) for one in value) or "–"
    if not isinstance(value, float):
        return value
    return f"{value:.4g}" if is_scientific(value) else f"{value:.{decimals}f}"


def _drawn(figure: Figure) -> tuple[str, bytes]:
    """A figure's kind of file and its bytes: SVG, or PNG where that is lighter."""
    data = as_svg(figure)
    figure.set_layout_engine("none")  # it is laid out now, and half the work of drawing it again
    return ("svg", data) if len(data) <= SVG_LIMIT else ("png", _png(figure))


def _png(figure: Figure) -> bytes:
    """A figure as PNG, coarser where it would be too heavy."""
    for dots in (110, 90, 75, 60):
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=dots)
        if png.tell() <= SVG_LIMIT:
            break
    return png.getvalue()


def to_json(value: Any) -> str:
    """JSON as this project writes it: UTF-8, one-space indent, a final newline, no NaN."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*", name):
        raise ParameterError(f"{name!r} cannot be a file name here. Use letters, digits, '_', '-'.")
    return name
