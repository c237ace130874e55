"""A report's pages: one self-contained ``index.html``, a page per BModel, and the notebooks.

Every page opens from disk: styles, script and figures are inside it, fonts are the system's, and
its content security policy lets it load nothing. All text from data is escaped by jinja2; control
and bidirectional characters in it are shown as escapes, so a file name cannot disturb its
surroundings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ..errors import DataError
from ..evaluate.published import LATEST, OURS, published_accuracy, published_latency
from ..evaluate.timings import STAGES
from ..files import atomic_write, read_bytes
from ..language import (
    ENGLISH,
    HTML,
    LANGUAGES,
    Text,
    clauses,
    number,
    phrase,
    side_by_side,
    speaking,
    spoken,
    translated,
)
from ..measure.badge import STATES, Badge, badge
from ..measure.box import network_time
from ..measure.output import as_cell, decimals
from ..measure.parameters import NETWORK
from ..measure.schema import (
    BModelFacts,
    BoxFacts,
    BoxTimes,
    Manifest,
    Metrics,
    Row,
    Timings,
    read_bmodel_facts,
    read_manifest,
    read_metrics,
    read_timings,
    results_name,
)
from ..measure.upgrades import upgrades_said
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.strategies import STRATEGIES
from . import verdict as words
from .board_times import VENDORS_STRATEGY, board_time, call_costs
from .notebook_pages import NotebookPage, cell_with, convert
from .profiles import command
from .staircase import staircase

_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
BOX_STEPS = (*STAGES, "runtime", "bmrt_test")  # of a kit's times
_SHOWN_DIFFERENCES = 200  # plates on a BModel's page; all of them are in results/
_OLD_PUBLISHED = "sophon-demo 2022-11"


@dataclass(frozen=True)
class Figure:
    """One figure of the gallery: a data URI, where it lies and which cell drew it."""

    name: str
    caption: str
    source: str
    file: str
    made_by: str | None
    notebook: str | None


@dataclass(frozen=True)
class Table:
    """One table that a notebook left, ``columns`` by ``rows``."""

    name: str
    caption: str
    file: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    made_by: str | None

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers only."""
        return tuple(
            all(
                value is None or (isinstance(value, int | float) and not isinstance(value, bool))
                for value in column
            )
            for column in zip(*self.rows, strict=True)
        )

    @property
    def decimals(self) -> tuple[int, ...]:
        """How many of them each column needs, alike down the column."""
        return tuple(decimals(column) for column in zip(*self.rows, strict=True))


@dataclass(frozen=True)
class _Report:
    folder: Path
    own: str
    metrics: Metrics
    timings: Timings | None
    manifest: Manifest | None
    facts: dict[str, BModelFacts]
    notebooks: tuple[NotebookPage, ...]

    @property
    def suffix(self) -> str:
        """What the names of pages in the language spoken end with, before ".html"."""
        return _suffix(spoken(), self.own)


def _suffix(language: str, own: str) -> str:
    return "" if language == own else f".{language}"


def write_html(report_folder: str | Path) -> Path:
    """Write ``index.html``, ``bmodels/<id>.html`` and ``notebooks/*.html`` of a report.

    They are in the report's language (its parameter ``LANGUAGE``); beside each stands its page in
    the other, ``index.zh.html`` or ``index.en.html``, and each leads to the other.

    Parameters
    ----------
    report_folder
        With ``metrics.json``; what else is there (``timings.json manifest.json figures/ tables/
        results/ bmodels/ notebooks/``) is shown, what is missing is left out.

    Returns
    -------
    Path
        ``index.html``. The same folder gives the same bytes.

    Raises
    ------
    DataError
        When a file is not what ``docs/metrics.md`` says, naming it and the place in it.
    """
    folder = Path(report_folder)
    own = _own_language(folder)
    for language in LANGUAGES:
        with speaking(language):
            _write_pages(_read(folder, own))
    return folder / "index.html"


def _own_language(folder: Path) -> str:
    path = folder / "manifest.json"
    given = read_manifest(path).parameters.get("LANGUAGE") if path.exists() else None
    return given if isinstance(given, str) and given in LANGUAGES else ENGLISH


def _write_pages(report: _Report) -> None:
    """All pages in the language spoken."""
    folder, figures, tables = report.folder, _figures(report), _tables(report)
    judged = words.judge(report.metrics, list(report.facts.values()), _again(report))
    for facts in report.facts.values():
        _write(
            report,
            f"bmodels/{facts.id}",
            "bmodel.html.j2",
            title=f"{facts.id} · {folder.name}",
            **_bmodel(report, facts, judged),
        )
    for page in report.notebooks:
        _write(
            report,
            f"notebooks/{page.name}",
            "notebook.html.j2",
            title=f"{page.title} · {folder.name}",
            page=page,
            pages=report.notebooks,
        )
    _write(
        report,
        "index",
        "index.html.j2",
        title=_title(report),
        **_index(report, judged, figures, tables),
    )


def _read(folder: Path, own: str) -> _Report:
    def optional(name: str, reader: Any) -> Any:
        return reader(folder / name) if (folder / name).exists() else None

    facts = [read_bmodel_facts(path) for path in sorted((folder / "bmodels").glob("*.json"))]
    suffix = _suffix(spoken(), own)
    notebooks = tuple(convert(path, suffix) for path in _files(folder, "notebooks", "*.ipynb"))
    return _Report(
        folder,
        own,
        read_metrics(folder / "metrics.json"),
        optional("timings.json", read_timings),
        optional("manifest.json", read_manifest),
        {one.id: one for one in facts},
        notebooks,
    )


def _title(report: _Report) -> str:
    chips = list(dict.fromkeys(row.chip for row in report.metrics.rows if row.chip))
    network = _own_network(report) or "LPRNet"
    return (
        phrase("{network} on {chips}", network=network, chips=words.listed(chips))
        if chips
        else network
    )


def _own_network(report: _Report) -> str:
    """Name of the user's network that a report is of; "" for LPRNet.

    What others published, and what a call was found to cost, is of LPRNet alone.
    """
    given = str(report.manifest.parameters.get("NETWORK", NETWORK)) if report.manifest else NETWORK
    return "" if given == NETWORK else Path(given).stem


def _is_packaged(report: _Report) -> bool:
    """Whether nothing was compiled for a report."""
    return bool(report.manifest and report.manifest.parameters.get("TOOLCHAIN") == PACKAGED)


def _expected(
    report: _Report, chip: str, predicted_ms: float | None, batch: int, cores: int = 1
) -> float | None:
    return None if _own_network(report) else board_time(chip, predicted_ms, batch, cores)


# ------------------------------------------------------------------------------------------ index


def _index(
    report: _Report, judged: words.Verdict, figures: Sequence[Figure], tables: Sequence[Table]
) -> dict[str, Any]:
    metrics = report.metrics
    links = {index: _links(report, row) for index, row in enumerate(metrics.rows)}
    groups: dict[str, list[Figure]] = {}
    titles = {page.name: page.title for page in report.notebooks}
    here = {row.chip for row in metrics.rows}
    again = _again(report)
    costs = {} if _own_network(report) else call_costs()
    costs = {chip: cost for chip, cost in costs.items() if chip in here}
    for figure in figures:
        groups.setdefault(titles.get(figure.notebook or "", phrase("Other figures")), []).append(
            figure
        )
    return {
        "verdict": judged,
        "chosen": words.chosen,
        "metrics": metrics,
        "links": links,
        "stairs": staircase(metrics, judged.decoder),
        "forest": _forest(metrics, judged, links),
        "figures": groups,
        "tables": tables,
        "published": _published(report, judged),
        "upgrades_said": upgrades_said([one.model_dump() for one in metrics.upgrades]),
        "latency": _latency(report),
        "costs": costs,
        "cost_times": words.listed(
            [phrase("{ms:.2f} ms on {chip}", ms=c.fixed_ms, chip=chip) for chip, c in costs.items()]
        ),
        "cost_worst": words.listed(
            [
                phrase("{share:.1f} % on {chip}", share=100 * c.worst, chip=chip)
                for chip, c in costs.items()
            ]
        ),
        "board_time": partial(_expected, report),
        "own_network": _own_network(report),
        "timings": report.timings,
        "host": _host(report),
        "boxes": _boxes(report),
        "box_steps": _box_steps(report),
        "manifest": report.manifest,
        "command": again() if again else None,
        "notebooks": report.notebooks,
        "facts": report.facts,
        "stages": STAGES,
        "stage_names": {
            "decode": phrase("Decode"),
            "preprocess": phrase("Preprocess"),
            "inference": phrase("Inference"),
            "postprocess": phrase("Postprocess"),
        },
    }


def _result_file(report: _Report, row: Row) -> str | None:
    for name in (f"{results_name(row.id, row.decoder, bool(row.box))}.json", f"{row.id}.json"):
        path = report.folder / "results" / name
        if "/" not in name and path.is_file():
            return f"results/{name}"
    return None


def _links(report: _Report, row: Row) -> dict[str, str | None]:
    """Where each number of a row comes from, relative to ``index.html``."""
    cell = cell_with(report.notebooks, r"\b(write_metrics|measure_all|measure)\(", report.suffix)
    page = f"bmodels/{row.id}{report.suffix}.html" if row.id in report.facts else None
    results = _result_file(report, row)
    return {
        "model": page,
        "results": quote(results) if results else cell,
        "cell": cell or (quote(results) if results else None),
        "latency": f"{page}#latency" if page else None,
    }


def _forest(metrics: Metrics, judged: words.Verdict, links: Mapping[int, Any]) -> dict[str, Any]:
    """Intervals on one scale, in per cent of the plot's width."""
    rows = [
        (index, row, row.exact_match, row.ci95)
        for index, row in enumerate(metrics.rows)
        if row.decoder == judged.decoder and row.exact_match is not None and row.ci95
    ]
    if not rows:
        return {"rows": []}
    low = min(interval[0] for *_, interval in rows)
    high = max(interval[1] for *_, interval in rows)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 1.0) if (high - low) / s <= 7)
    first, last = int(low / step), int(-(-high // step))
    if last * step - high > 0.999 * step and last > first + 1:
        last -= 1
    start, span = first * step, max(last - first, 1) * step

    def place(value: float) -> float:
        return round(100 * min(max((value - start) / span, 0), 1), 3)

    batches = len({row.batch for _, row, *_ in rows}) > 1
    reference = next((point for _, row, point, _ in rows if row.chip is None), None)
    shown, group = [], object()
    for index, row, point, interval in sorted(rows, key=lambda item: item[1].chip is not None):
        shown.append(
            {
                "row": row,
                "starts": row.chip != group,
                "link": links[index]["results"],
                "label": " ".join(
                    [
                        _precision_name(row.precision) if row.chip else phrase("Float"),
                        *([row.strategy] if row.strategy else []),
                        *([phrase("by {release}", release=row.release)] if row.release else []),
                        *([f"batch {row.batch}"] if batches else []),
                        *([phrase("{count} cores", count=row.cores)] if row.cores > 1 else []),
                        *([phrase("on the box")] if row.box else []),
                    ]
                ),
                "point": place(point),
                "low": place(interval[0]),
                "width": round(place(interval[1]) - place(interval[0]), 3),
            }
        )
        group = row.chip
    ticks = [(place(k * step), f"{k * step:.2f}") for k in range(first, last + 1)]
    return {
        "rows": shown,
        "ticks": ticks,
        "reference": None if reference is None else place(reference),
    }


def _published(report: _Report, judged: words.Verdict) -> dict[str, Any]:
    """Our rows beside the published ones of the same chip, precision and batch."""
    found = []
    for row in report.metrics.rows:
        if row.chip is None or row.decoder != judged.decoder or _own_network(report):
            continue
        others = [
            one
            for one in published_accuracy(row.chip, row.precision)
            if one.batch == row.batch and (one.source != LATEST or one.program in OURS)
        ]
        by_source = {
            source: [one for one in others if one.source == source]
            for source in (LATEST, _OLD_PUBLISHED)
        }
        if not others:
            continue
        inside = [
            row.ci95 is not None and row.ci95[0] <= one.exact_match <= row.ci95[1]
            for one in by_source[LATEST]
        ]
        found.append(
            {
                "row": row,
                "new": by_source[LATEST],
                "old": by_source[_OLD_PUBLISHED],
                "inside": inside[0] if inside else None,
                "link": f"bmodels/{row.id}{report.suffix}.html" if row.id in report.facts else None,
            }
        )
    source = report.metrics.data
    return {
        "rows": found,
        "comparable": bool(
            source and source.source == "published" and source.weights == "published"
        ),
    }


def _latency(report: _Report) -> list[dict[str, Any]]:
    models: dict[str, dict[str, Any]] = {}
    for row in report.metrics.rows:
        if row.chip is None or row.id in models:
            continue
        expected = _expected(report, row.chip, row.predicted_latency_ms, row.batch, row.cores)
        published_of = "" if _own_network(report) else row.chip
        models[row.id] = {
            "row": row,
            "expected": expected,
            "per_image": None if expected is None else expected / row.batch,
            "here": _here(report, row.id),
            **_measured(published_of, row.precision, row.strategy, row.batch, row.cores),
            "link": f"bmodels/{row.id}{report.suffix}.html#latency"
            if row.id in report.facts
            else None,
        }
    return list(models.values())


def _measured(
    chip: str, precision: str, strategy: str | None, batch: int, cores: int
) -> dict[str, Any]:
    """What was published of the vendor's model that is made alike: in INT8 with KL thresholds."""
    measured = {
        one.source: one
        for one in published_latency(chip, precision, cores=cores)
        if one.batch == batch and strategy in (None, VENDORS_STRATEGY)
    }
    return {"new": measured.get(LATEST), "old": measured.get(_OLD_PUBLISHED)}


def _here(report: _Report, identity: str) -> tuple[float, str] | None:
    """Milliseconds an image of a model's run alone on a box, and by what; None without a box."""
    found = [one for one in _box_times(report, identity) if one.program != "bmcv"]
    return network_time(found[0].times_ms) if found else None


def _box_times(report: _Report, identity: str) -> list[BoxTimes]:
    boxes = report.timings.boxes if report.timings else ()
    return [one for one in boxes if one.id == identity]


def _boxes(report: _Report) -> list[dict[str, Any]]:
    """What boxes measured: facts of each, and a line for each model and program."""
    facts = {one.sha256: one for one in report.manifest.boxes} if report.manifest else {}
    found: dict[str, dict[str, Any]] = {}
    for row in report.metrics.rows:
        if row.box is None:
            continue
        box = found.setdefault(row.box.results, _box(facts.get(row.box.results)))
        if row.id not in box["models"]:
            box["models"][row.id] = {
                "row": row,
                "exactness": words.exactness_on_box(row),
                "times": _box_times(report, row.id),
                "link": f"bmodels/{row.id}{report.suffix}.html" if row.id in report.facts else None,
            }
    return list(found.values())


def _box_steps(report: _Report) -> list[str]:
    """Steps that any box has timed, in order."""
    boxes = report.timings.boxes if report.timings else ()
    return [step for step in BOX_STEPS if any(step in one.times_ms for one in boxes)]


def _box(facts: BoxFacts | None) -> dict[str, Any]:
    """A box's name and what is known of it, as pairs for a table."""
    if facts is None:
        return {"name": phrase("a box"), "facts": None, "known": [], "models": {}}
    about = {"results": facts.file, "kit": facts.kit, **facts.settings, **facts.box}
    known = [(field_name(key), value) for key, value in _flat(about) if value is not None]
    return {"name": facts.name, "facts": facts, "known": known, "models": {}}


def _host(report: _Report) -> list[dict[str, Any]]:
    """Wall time by stage, with the parts of its bar in per cent of the longest."""
    if report.timings is None:
        return []
    known = {row.id: row for row in report.metrics.rows if row.box is None}
    found: list[dict[str, Any]] = []
    for row in report.timings.rows:
        parts = {stage: getattr(row, f"{stage}_ms") for stage in STAGES}
        found.append(
            {
                "row": row,
                "metrics": known.get(row.id),
                "parts": parts,
                "link": f"bmodels/{row.id}{report.suffix}.html" if row.id in report.facts else None,
                "total": sum(value or 0 for value in parts.values()),
            }
        )
    longest = max((item["total"] for item in found), default=0) or 1
    for item in found:
        item["bars"] = [
            (stage, round(100 * (value or 0) / longest, 3))
            for stage, value in item["parts"].items()
        ]
    return found


def _again(report: _Report) -> words.Again | None:
    """What names the command that makes the report again, or one beside it; see `command`."""
    return partial(command, report.manifest, report.folder.name) if report.manifest else None


# ---------------------------------------------------------------------------------------- figures


def _figures(report: _Report) -> list[Figure]:
    """Figures in the order in which the notebooks draw them, then by name."""
    found = []
    for sidecar in _files(report.folder, "figures", "*.json"):
        value = _object(sidecar)
        files = value.get("files")
        file = (files.get(spoken()) if isinstance(files, dict) else None) or value.get("file")
        if (
            not isinstance(file, str)
            or Path(file).name != Path(str(file)).parts[-1]
            or "\\" in file
            or ".." in file
        ):
            raise DataError(f'{sidecar} must name a figure beside it in "file".')
        path = sidecar.parent / Path(file).name
        if path.suffix not in _KINDS or not path.is_file():
            raise DataError(
                f"{sidecar} names the figure {file!r}, which is not there as a file of SVG or "
                "PNG. Make the report again."
            )
        _check_own(path, report.folder)
        name = sidecar.relative_to(report.folder / "figures").with_suffix("").as_posix()
        link, notebook, order = _maker(report, name)
        uri = f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        found.append(
            (
                order,
                name,
                Figure(
                    name,
                    _caption(value),
                    uri,
                    quote(path.relative_to(report.folder).as_posix()),
                    link,
                    notebook,
                ),
            )
        )
    return [figure for _, _, figure in sorted(found, key=lambda item: item[:2])]


def _tables(report: _Report) -> list[Table]:
    found = []
    for path in _files(report.folder, "tables", "*.json"):
        value = _object(path)
        rows = value.get("rows")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f'{path} has no list of objects in "rows". Make the report again.')
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        name = path.relative_to(report.folder / "tables").with_suffix("").as_posix()
        link, _, order = _maker(report, name)
        found.append(
            (
                order,
                name,
                Table(
                    name,
                    _caption(value),
                    quote(path.relative_to(report.folder).as_posix()),
                    columns,
                    tuple(tuple(_said(row.get(key), value) for key in columns) for row in rows),
                    link,
                ),
            )
        )
    return [table for _, _, table in sorted(found, key=lambda item: item[:2])]


def _said(cell: Any, table: Mapping[str, Any]) -> Any:
    """A table's cell in the language spoken, a badge as such; see `measure.output`."""
    if not isinstance(cell, str):
        return cell
    words, badges = (table.get(key) for key in ("words", "badges"))
    own = words.get(spoken()) if isinstance(words, dict) else None
    said = own.get(cell) if isinstance(own, dict) else None
    state = badges.get(cell) if isinstance(badges, dict) else None
    shown = Text({language: str(said or cell) for language in LANGUAGES})
    return badge(state, shown) if state in STATES else str(shown)


def _caption(value: Mapping[str, Any]) -> str:
    """A figure's or table's caption in the language spoken, as far as there is one."""
    others, caption = value.get("captions"), str(value.get("caption", ""))
    said = others.get(spoken()) if isinstance(others, dict) else None
    return said if isinstance(said, str) else translated(caption, spoken())


def _maker(report: _Report, name: str) -> tuple[str | None, str | None, tuple[int, int]]:
    """Link to the cell that names a figure or table, its notebook, and its place in the order."""
    for place, page in enumerate(report.notebooks):
        for index, (anchor, source) in enumerate(page.code):
            if re.search(rf"[\"']{re.escape(name)}[\"']", source):
                link = f"notebooks/{quote(page.name)}{report.suffix}.html"
                return f"{link}#{anchor}", page.name, (place, index)
    # A name that is put together when the cell runs: the notebook's number stands before it.
    for place, page in enumerate(report.notebooks):
        if re.match(r"\d\d_", name) and page.name[:3] == name[:3]:
            link = f"notebooks/{quote(page.name)}{report.suffix}.html"
            return link, page.name, (place, len(page.code))
    return None, None, (len(report.notebooks), 0)


def _check_own(path: Path, folder: Path) -> None:
    """A page that is passed on must not carry a file from elsewhere, where a link leads."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link that leads out of the report. Make the report again.")


def _files(report: Path, part: str, pattern: str) -> list[Path]:
    """Files of a part of the report, in order of their names."""
    folder = report / part
    found = sorted(folder.rglob(pattern)) if folder.is_dir() else []
    for path in found:
        _check_own(path, report)
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {error}. Make the report again."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object. Make the report again.")
    return value


# ---------------------------------------------------------------------------------- page per BModel


def _bmodel(report: _Report, facts: BModelFacts, judged: words.Verdict) -> dict[str, Any]:
    rows = [row for row in report.metrics.rows if row.id == facts.id]
    comparison = next(
        (one for one in judged.chips.get(facts.chip, ()) if one.row.id == facts.id), None
    )
    cycles = max((layer.cycles for layer in facts.latency_by_layer), default=0) or 1
    units: dict[str, float] = {}
    for layer in facts.latency_by_layer:
        units[layer.unit or "all"] = units.get(layer.unit or "all", 0) + layer.cycles
    noise = [layer.sqnr_db for layer in facts.layers if layer.sqnr_db is not None]
    worst = sorted(
        (layer for layer in facts.layers if layer.sqnr_db is not None),
        key=lambda layer: layer.sqnr_db or 0.0,
    )[:3]
    strategy = STRATEGIES.get(facts.strategy or "")
    return {
        "own_network": _own_network(report),
        "facts": facts,
        "rows": rows,
        "comparison": comparison,
        "exactness": words.exactness_of(facts),
        "expected": _expected(
            report, facts.chip, facts.predicted_latency_ms, facts.batch, facts.cores
        ),
        "here": _here(report, facts.id),
        "on_box": next((words.exactness_on_box(row) for row in rows if row.box), None),
        "cost": None if _own_network(report) else call_costs().get(facts.chip),
        **_measured(
            "" if _own_network(report) else facts.chip,
            facts.precision,
            facts.strategy,
            facts.batch,
            facts.cores,
        ),
        "about": strategy.about if strategy else None,
        "differences": [
            (row, _differences(report, row), _result_file(report, row)) for row in rows
        ],
        "shown_differences": _SHOWN_DIFFERENCES,
        "cycles": cycles,
        "units": units,
        "units_said": _units_said(units),
        "noise": max([*noise, 1.0]),
        "worst": worst,
        "models": list(report.facts.values()),
    }


def _units_said(units: Mapping[str, float]) -> Text:
    """Cycles of each unit, in a sentence."""
    said = [
        phrase(
            "{unit}: {count} cycles",
            unit=visible(unit).capitalize(),
            count=number(round(cycles)),
        )
        for unit, cycles in units.items()
    ]
    return phrase("{parts}.", parts=clauses(said))


def _differences(report: _Report, row: Row) -> list[tuple[str, str, str]] | None:
    """``(file, float reading, this reading)`` of images read differently; None without results."""
    base = next(
        (
            one
            for one in report.metrics.rows
            if one.chip is None
            and (one.batch, one.batch_mean, one.decoder) == (row.batch, row.batch_mean, row.decoder)
        ),
        None,
    )
    files = [file for one in (base, row) if one and (file := _result_file(report, one))]
    if len(files) < 2:
        return None
    floats, ours = (_object(report.folder / file) for file in files)
    return [
        (name, str(floats.get(name, "")), str(text))
        for name, text in ours.items()
        if floats.get(name) != text
    ]


# -------------------------------------------------------------------------------------- templates


def _precision_name(precision: str) -> str:
    return phrase("from elsewhere:") if precision == words.UNKNOWN else precision.upper()


def _write(report: _Report, place: str, template: str, **values: Any) -> None:
    """Write a page, named without its ending, in the language spoken."""
    others = {
        language: quote(f"{place.rpartition('/')[2]}{_suffix(language, report.own)}.html")
        for language in LANGUAGES
        if language != spoken()
    }
    text = (
        _environment()
        .get_template(template)
        .render(
            root="../" * place.count("/"),
            report_name=report.folder.name,
            html=f"{report.suffix}.html",
            language=spoken(),
            own_language=report.own,
            html_languages=HTML,
            languages=LANGUAGES,
            other_pages=others,
            texts=_script_texts(),
            packaged=_is_packaged(report),
            **values,
        )
    )
    atomic_write(report.folder / f"{place}{report.suffix}.html", text.strip() + "\n")


def _script_texts() -> dict[str, str]:
    """What report.js says, by the names that it has for it."""
    return {
        "auto": phrase("Auto"),
        "light": phrase("Light"),
        "dark": phrase("Dark"),
        "theme": phrase("Theme"),
        "count": phrase("{{shown}} of {{all}} rows"),
        "close": phrase("Close"),
        "figure": phrase("Figure"),
        "pan": phrase("Figure, scrolls"),
        "copy": phrase("Copy"),
        "copied": phrase("Copied"),
        "hint": phrase("↔ This table scrolls sideways."),
    }


def _phrase(message: str, **values: Any) -> Markup:
    """A message of a template, which may have tags; its values are escaped."""
    return Markup(translated(message, spoken())).format(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("lprnet_nb.report", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = loader.get_source(environment, "report.js")[0].strip()
    style = loader.get_source(environment, "report.css")[0].strip()
    environment.globals |= {
        "script": Markup(script),
        "style": Markup(style),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "precision_name": _precision_name,
        "phrase": _phrase,
        "sentences": lambda *texts: side_by_side(map(escape, texts), spoken()),
        "translated": lambda text: translated(text, spoken()),
        "verdict_words": words,
        "badge_states": STATES,
    }
    environment.filters |= {
        "data": data_text,
        "prose": _prose,
        "visible": visible,
        "share": words.share,
        "points": words.points,
        "interval": words.interval,
        "p": words.probability,
        "count": number,
        "listed": words.listed,
        "cell": _cell,
        "number_sort": _sort_key,
        "bytes": _bytes,
        "ms": _milliseconds,
        "host_ms": _host_milliseconds,
        "flat": _flat,
        "field": field_name,
        "named": lambda pairs: [
            (field_name(key), translated(value, spoken()) if key == "reason" else value)
            for key, value in pairs
        ],
        "seconds": _seconds,
        "lines": _lines,
    }
    return environment


_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\ufff9-\ufffb]"
)
_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")


def visible(value: Any) -> str:
    """Text with control, bidirectional and lone surrogate characters as escapes.

    Examples
    --------
    >>> print(visible("a\\nb\\u202ec"))
    a\\nb\\u202ec
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def _lines(text: str) -> str:
    """Text of several lines, control characters other than line ends as escapes."""
    return "\n".join(visible(line) for line in text.expandtabs().splitlines())


def data_text(value: Any) -> Markup:
    """Text from data as HTML: escaped, isolated from the direction of its surroundings."""
    text = visible(value)
    language = ' lang="zh-Hans"' if _CHINESE.search(text) else ""
    return Markup(f"<bdi{language}>{escape(text)}</bdi>")


def _prose(value: Any) -> Markup:
    """A caption: as `data_text`, with `code` between backticks set as code."""
    # As plain text: Markup would escape what is put in.
    return Markup(re.sub(r"`([^`]+)`", _as_code, str(data_text(value))))


def _as_code(found: re.Match[str]) -> str:
    """Code of which a line ends between words alone: a browser ends one after hyphens as well."""
    words = re.sub(r"\S*-\S*", r"<span>\g<0></span>", found[1])
    return f"<code>{words}</code>"


def _cell(value: Any, places: int | None = None) -> Markup:
    """One value of a notebook's table; by default with as many decimals as it needs."""
    if isinstance(value, Badge):
        return Markup('<span class="tag {}">{}</span>').format(STATES[value.state], value)
    if value is None:
        return Markup('<span class="none">–</span>')
    if isinstance(value, bool):
        return Markup(phrase("yes") if value else phrase("no"))
    if isinstance(value, int):
        return Markup(number(value)) if abs(value) > 9999 else Markup(value)
    if isinstance(value, float):
        return Markup(as_cell(value, decimals([value]) if places is None else places))
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return data_text(as_cell(value, decimals(value)))
    if isinstance(value, list | dict):
        return data_text(json.dumps(value, ensure_ascii=False))
    return data_text(value)


def _sort_key(value: Any) -> str:
    """What the script sorts a cell by: numbers as numbers, nothing as nothing."""
    if value is None:
        return ""
    return visible(float(value) if isinstance(value, bool | int | float) else value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested values as ``(dotted key, value)``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fields() -> dict[str, str]:
    return {
        "ci95": phrase("95 % interval"),
        "among_evaluated": phrase("among the judged"),
        "max_abs_difference": phrase("largest difference of a logit"),
        "identical": phrase("same to the bit"),
        "same_classes": phrase("same class at every time step"),
        "sqnr_db": "SQNR, dB",
        "mcnemar_p": phrase("p (McNemar)"),
        "name": phrase("name"),
        "images": phrase("images"),
        "digest": phrase("digest"),
        "source": phrase("source"),
        "reason": phrase("reason"),
        "weights": phrase("weights"),
        "margin": phrase("margin"),
        "calibration": phrase("calibration"),
        "results": phrase("results"),
        "kit": phrase("kit"),
        "warm_up": phrase("warm-up calls"),
        "repetitions": phrase("repetitions"),
        "timeout": phrase("timeout, s"),
        "board": phrase("board"),
        "chip": phrase("chip"),
        "target": phrase("target"),
        "devices": phrase("devices"),
        "system": phrase("system"),
        "kernel": phrase("kernel"),
        "machine": phrase("machine"),
        "processors": phrase("processors"),
        "memory_mb": phrase("memory, MB"),
        "driver": phrase("driver"),
        "runtime": phrase("runtime"),
        "temperature": phrase("temperature"),
        "clock_hz": phrase("clock, Hz"),
    }


def field_name(name: str) -> str:
    """A field's name for people, of the name that programs use.

    Examples
    --------
    >>> field_name("calibration.among_evaluated"), field_name("exact_match")
    ('calibration: among the judged', 'exact match')
    """
    known = _fields()
    return ": ".join(known.get(part, part.replace("_", " ")) for part in name.split("."))


def _bytes(value: int | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value} B"
        if value < 1000
        else f"{value / 1e3:.1f} kB"
        if value < 1e6
        else f"{value / 1e6:.2f} MB"
    )


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _host_milliseconds(value: float | None) -> str:
    """Of a slow machine, where a column spans decades: two decimals all the way down."""
    return "–" if value is None else f"{value:,.2f}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60)} s"
