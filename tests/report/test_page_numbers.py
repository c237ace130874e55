"""The numbers in the page's own attributes and texts, against the files that they are from.

What a sorted table, a bar and a marker say is read off the HTML as a reader would, scales by their
ticks, and compared with metrics.json, timings.json and the facts of the BModels.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import pytest
import report_sample

from lprnet_nb.evaluate.published import published_accuracy, published_latency
from lprnet_nb.measure.schema import model_id
from lprnet_nb.report.board_times import call_costs
from lprnet_nb.report.html import write_html

STAGES = ("decode", "preprocess", "inference", "postprocess")
COLUMNS = (
    "character_accuracy",
    "agreement_with_float",
    "mcnemar_p",
    "logits_cosine",
    "logits_sqnr_db",
)
VOID = {"meta", "link", "img", "input", "br", "hr", "col"}
# Beside the sample's rows: another batch, whose latency is of four images a call.
MORE = (
    (None, "fp32", 4, None, "greedy", 893, None, None, None, None, None),
    ("BM1684X", "int8", 4, "kl", "greedy", 871, 0.944, 0.0008, 0.98333, 15.01, 0.148),
)


class _Tree(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._builder = TreeBuilder()
        self.feed(path.read_text("utf8").partition("\n")[2])
        self.root = self._builder.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._builder.start(tag, {name: value or "" for name, value in attributes})
        if tag in VOID:
            self._builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self._builder.end(tag)

    def handle_data(self, data: str) -> None:
        self._builder.data(data)


def text(element: Element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def with_class(element: Element, name: str) -> list[Element]:
    return [one for one in element.iter() if name in one.get("class", "").split()]


def table(root: Element, caption: str) -> list[list[Element]]:
    """Body rows of the table with a caption."""
    [found] = [one for one in root.iter("table") if text(one.find("caption")) == caption]
    return [list(row) for row in found.find("tbody")]


def style(element: Element) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in re.findall(r"(left|width):([-\d.e]+)%", element.get("style", ""))
    }


def values(cells: list[Element]) -> list[float | None]:
    """What the script sorts by."""
    return [float(cell.get("data-value")) if cell.get("data-value") else None for cell in cells]


def measured(row: dict[str, Any]) -> list[float | None]:
    """What a row's columns are sorted by, the difference to float before its p-value."""
    loss = row["loss"]["difference"] if row["loss"] else None
    found = [row[column] for column in COLUMNS]
    return [*found[:2], loss, *found[2:]]


def signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def board_ms(row: dict[str, Any]) -> float | None:
    """What a call takes on the vendor's board, by the constants that the READMEs tell."""
    cost = call_costs().get(row["chip"])
    predicted = row["predicted_latency_ms"]
    if cost is None or predicted is None:
        return None
    return cost.fixed_ms + cost.scale * predicted + cost.further_ms * (row["batch"] - 1)


def on_the_board(row: dict[str, Any]) -> str:
    expected = board_ms(row)
    alone = shown(row["predicted_latency_ms"], 3)
    return alone if expected is None else f"{alone} → {expected:.2f}"


def shown(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = report_sample.build(tmp_path_factory.mktemp("numbers") / "fixture")
    facts = json.loads((folder / "metrics.json").read_text("utf8"))
    # Compiled rows first: a page may not take the first row for the float one.
    facts["rows"] = [
        *facts["rows"][1:],
        *(report_sample.row(*one) for one in MORE),
        facts["rows"][0],
    ]
    (folder / "metrics.json").write_text(json.dumps(facts), "utf8")
    model = json.loads((folder / "bmodels" / "bm1684x_int8_1b_kl.json").read_text("utf8"))
    model |= {"id": "bm1684x_int8_4b_kl", "batch": 4, "predicted_latency_ms": 0.148}
    (folder / "bmodels" / "bm1684x_int8_4b_kl.json").write_text(json.dumps(model), "utf8")
    timings = json.loads((folder / "timings.json").read_text("utf8"))
    for number, row in enumerate(timings["rows"]):
        row |= {
            "decode_ms": 0.31 + 0.1 * number,
            "preprocess_ms": 0.12 + 0.2 * number,
            "postprocess_ms": 40.5 - 2 * number,
        }
    timings["rows"][3]["preprocess_ms"] = None
    (folder / "timings.json").write_text(json.dumps(timings), "utf8")
    write_html(folder)
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Element:
    return _Tree(report / "index.html").root


@pytest.fixture(scope="module")
def rows(report: Path) -> list[dict[str, Any]]:
    return json.loads((report / "metrics.json").read_text("utf8"))["rows"]


def name(row: dict[str, Any]) -> str:
    parts = [
        row["chip"] or "PyTorch",
        row["precision"].upper() if row["chip"] else "float",
        row["strategy"],
    ]
    return " ".join(part for part in parts if part)


def test_the_main_table_is_metrics_json(page, rows):
    lines = table(page, "All results; headings sort")
    assert len(lines) == len(rows)
    for cells, row in zip(lines, rows):
        low, high = row["ci95"]
        assert values(cells)[1:] == [
            row["exact_match"],
            low,
            None,
            None,
            *measured(row),
            row["predicted_latency_ms"],
            None,
        ]
        texts = [text(cell) for cell in cells]
        assert texts[:7] == [
            name(row),
            shown(row["exact_match"], 3),
            f"{low:.3f}–{high:.3f}",
            row["decoder"],
            str(row["batch"]),
            shown(row["character_accuracy"], 4),
            shown(row["agreement_with_float"], 3),
        ]
        loss = row["loss"]
        assert texts[7] == (
            "–"
            if loss is None
            else f"{signed(loss['difference'])} {signed(loss['ci95'][0])} … "
            f"{signed(loss['ci95'][1])}"
        )
        assert texts[9:] == [
            shown(row["logits_cosine"], 4),
            shown(row["logits_sqnr_db"], 1),
            on_the_board(row),
            row["backend"],
        ]
        p = row["mcnemar_p"]
        if p is None or p < 1e-4:
            assert texts[8] == ("–" if p is None else "< 0.0001")
        else:
            decimals = 4 if p < 0.001 else 3 if p < 0.1 else 2
            assert texts[8] == f"{p:.{decimals}f}"


def test_the_steps_are_those_of_the_rows(page):
    """By hand from the sample: float, vendor, KL, recommended, grammar; and to one scale."""
    chips = with_class(page, "stairs")
    assert [[text(one.find("b")) for one in steps] for steps in chips] == [
        ["0.894", "0.867", "0.868", "0.892", "0.904"],
        ["0.894", "0.858", "0.859", "0.881", "0.897"],
    ]
    floats = [0.894] * 4 + [0.905]
    points = []
    for steps in chips:
        for step, reference in zip(steps, floats):
            [level], [mark] = with_class(step, "level"), with_class(step, "step")
            points.append((float(text(step.find("b"))), bottom(mark)))
            points.append((reference, bottom(level)))
    (low, at_low), (high, at_high) = min(points), max(points)
    for value, place in points:
        wanted = at_low + (value - low) * (at_high - at_low) / (high - low)
        assert place == pytest.approx(wanted, abs=0.01)
    assert at_high > at_low


def bottom(element: Element) -> float:
    return float(re.fullmatch(r"bottom:([\d.]+)%", element.get("style"))[1])


def test_the_forest_is_to_scale(page, rows):
    lines = with_class(page, "forest-row")
    ticks = [style(one)["left"] for one in with_class(lines[-1], "tick")]
    scale = [float(text(one)) for one in with_class(lines[-1], "tick-text")]
    unit = (scale[-1] - scale[0]) / (ticks[-1] - ticks[0])

    def read(percent: float) -> float:
        return scale[0] + (percent - ticks[0]) * unit

    assert [read(tick) for tick in ticks] == pytest.approx(scale, abs=1e-4)
    greedy = sorted(
        (row for row in rows if row["decoder"] == "greedy"), key=lambda row: row["chip"] is not None
    )
    [reference] = {
        row["exact_match"] for row in greedy if row["chip"] is None and row["batch"] == 4
    }
    assert len(lines) == len(greedy) + 1
    for line, row in zip(lines, greedy):
        [bar], [dot], [ref] = (with_class(line, kind) for kind in ("whisker", "dot", "ref"))
        ends = style(bar)
        assert read(style(dot)["left"]) == pytest.approx(row["exact_match"], abs=1e-5)
        assert (read(ends["left"]), read(ends["left"] + ends["width"])) == pytest.approx(
            row["ci95"], abs=1e-5
        )
        assert read(style(ref)["left"]) == pytest.approx(reference, abs=1e-5)
        [value] = with_class(line, "forest-value")
        assert text(value) == f"{row['exact_match']:.3f} {row['ci95'][0]:.3f}–{row['ci95'][1]:.3f}"


def test_latency_is_of_a_call_and_of_an_image(page, rows):
    models = {
        model_id(*(row[key] for key in ("chip", "precision", "batch", "strategy"))): row
        for row in reversed(rows)
        if row["chip"]
    }
    lines = table(page, "Latency on the chip")
    found = {text(cells[0]) + text(cells[1]): cells for cells in lines}
    assert len(found) == len(lines) == len(models)
    for row in models.values():
        cells = found[name(row) + str(row["batch"])]
        call = row["predicted_latency_ms"]
        board = board_ms(row)
        image = None if board is None else board / row["batch"]
        published = {
            one.source: one.bmrt_test_ms_per_image
            for one in published_latency(row["chip"], row["precision"])
            if one.batch == row["batch"] and row["strategy"] in (None, "kl")
        }
        newer, older = (published.get(f"sophon-demo {date}") for date in ("2024-10", "2022-11"))
        assert values(cells)[2:] == [call, board, image, newer, older]
        assert [text(cell) for cell in cells[2:]] == [
            shown(one, 3) for one in (call, board, image, newer, older)
        ]
    # The vendor's INT8 has KL thresholds: its time is not another strategy's.
    assert values(found["BM1684X INT8 kl1"])[5] == 0.507
    assert values(found["BM1684X INT8 recommended1"])[5:] == [None, None]


def test_published_figures_stand_beside_ours(page, rows):
    lines = table(page, "Our exact match beside the published")
    greedy = [
        row
        for row in rows
        if row["chip"]
        and row["decoder"] == "greedy"
        and any(
            one.batch == row["batch"] for one in published_accuracy(row["chip"], row["precision"])
        )
    ]
    assert len(lines) == len(greedy) > 4
    for cells, row in zip(lines, greedy):
        ours = [
            one
            for one in published_accuracy(row["chip"], row["precision"])
            if one.batch == row["batch"]
            and (one.source == "sophon-demo 2022-11" or one.program == "lprnet_opencv.py")
        ]
        newer, older = (
            [one.exact_match for one in ours if one.source == f"sophon-demo {date}"]
            for date in ("2024-10", "2022-11")
        )
        assert [text(cell) for cell in cells[:2]] == [name(row), str(row["batch"])]
        assert values(cells)[2:5] == [
            row["exact_match"],
            row["ci95"][0],
            newer[0] if newer else None,
        ]
        assert values(cells)[6] == (older[0] if older else None)
        for cell, many in ((cells[4], newer), (cells[6], older)):
            assert re.findall(r"\d\.\d{3}", text(cell)) == [f"{one:.3f}" for one in many]
        inside = newer and row["ci95"][0] <= newer[0] <= row["ci95"][1]
        assert text(cells[5]) == ("–" if not newer else "✓ yes" if inside else "no")
    assert {text(cells[5]) for cells in lines} >= {"✓ yes", "no"}


def test_host_times_are_those_of_timings_json(page, report):
    timings = json.loads((report / "timings.json").read_text("utf8"))["rows"]
    lines = table(page, "Wall time of an image by stage")
    totals = [sum(row[f"{stage}_ms"] or 0 for stage in STAGES) for row in timings]
    assert len(lines) == len(timings)
    for cells, row, total in zip(lines, timings, totals):
        assert [text(cell) for cell in cells[1:3]] == [row["decoder"], row["backend"]]
        assert values(cells)[3:7] == [row[f"{stage}_ms"] for stage in STAGES]
        assert values(cells)[7] == pytest.approx(total)
        bars = {
            stage: style(bar)["width"]
            for stage in STAGES
            for bar in with_class(cells[8], f"bar-{stage}")
        }
        assert bars == {
            stage: pytest.approx(100 * (row[f"{stage}_ms"] or 0) / max(totals), abs=1e-3)
            for stage in STAGES
        }


def test_cards_show_the_chips_own_rows(page, rows):
    cards = with_class(page, "card")
    assert [text(card.find(".//h3")) for card in cards] == ["BM1684X", "BM1684"]
    for card, chip in zip(cards, ("BM1684X", "BM1684")):
        mine = [row for row in rows if row["chip"] == chip and row["decoder"] == "greedy"]
        [main] = [row for row in mine if row["strategy"] == "recommended"]
        [big] = with_class(card, "big")
        assert text(big) == f"{main['exact_match']:.3f} INT8 recommended"
        low, high = main["ci95"]
        assert f"95 % interval {low:.3f}–{high:.3f}." in text(card)
        lost = main["exact_match"] - 0.894
        assert f"{signed(lost)} points against float (95 % interval" in text(card)
        assert signed(main["loss"]["ci95"][0]) in text(card)
        others = [text(item) for item in with_class(card, "others")[0]]
        assert [item.split(": ")[1].split(",")[0] for item in others] == [
            f"{row['exact_match']:.3f}" for row in mine if row is not main
        ]


def test_tables_of_notebooks_keep_their_values(page, report):
    written = json.loads((report / "tables" / "forms.json").read_text("utf8"))
    for cells, row in zip(table(page, written["caption"]), written["rows"], strict=True):
        assert [cell.get("data-value") for cell in cells] == [
            str(float(value)) if isinstance(value, bool | float) else value
            for value in row.values()
        ]
        largest = {0.0: "0", 3.1e-06: "3.1e-06"}[row["largest difference"]]
        assert [text(cell) for cell in cells] == [row["form"], "0.894", largest, "yes"]


@pytest.mark.parametrize("model", ["bm1684x_int8_1b_kl", "bm1684x_int8_4b_kl"])
def test_a_bmodels_page_is_its_facts(report, rows, model):
    page = _Tree(report / "bmodels" / f"{model}.html").root
    facts = json.loads((report / "bmodels" / f"{model}.json").read_text("utf8"))
    mine = [
        row
        for row in rows
        if (row["chip"], row["precision"], row["batch"], row["strategy"])
        == (facts["chip"], facts["precision"], facts["batch"], facts["strategy"])
    ]
    for cells, row in zip(table(page, "Accuracy by decoder"), mine, strict=True):
        assert [text(cell) for cell in cells[:3]] == [row["decoder"], row["backend"], "1,000"]
        assert values(cells)[3:] == [
            row["exact_match"],
            row["ci95"][0],
            *measured(row),
        ]
    longest = max(layer["cycles"] for layer in facts["latency_by_layer"])
    for cells, layer in zip(
        table(page, "Predicted cycles by layer"), facts["latency_by_layer"], strict=True
    ):
        assert [text(cell) for cell in cells[:3]] == [
            layer["name"],
            layer["unit"],
            f"{layer['cycles']:,}",
        ]
        assert values(cells)[2] == layer["cycles"]
        assert style(cells[3].find(".//i"))["width"] == pytest.approx(
            100 * layer["cycles"] / longest, abs=0.006
        )
    best = max(layer["sqnr_db"] for layer in facts["layers"])
    for number, (cells, layer) in enumerate(
        zip(table(page, "Error by layer"), facts["layers"], strict=True), 1
    ):
        assert [text(cell) for cell in cells[:4]] == [
            str(number),
            layer["name"],
            layer["op"],
            layer["role"],
        ]
        assert values(cells)[4:6] == [layer["cosine"], layer["sqnr_db"]]
        assert [text(cell) for cell in cells[4:6]] == [
            f"{layer['cosine']:.5f}",
            f"{layer['sqnr_db']:.1f}",
        ]
        assert style(cells[6].find(".//i"))["width"] == pytest.approx(
            100 * max(layer["sqnr_db"], 0) / best, abs=0.006
        )
    tiles = [text(tile) for tile in with_class(page, "tiles")[0]]
    images = "1 image" if facts["batch"] == 1 else "4 images"
    [call] = [tile for tile in tiles if tile.startswith(f"Time of a call ({images})")]
    vendors = {1: "0.507", 4: "1.036"}[facts["batch"]]
    worst = 100 * call_costs()["BM1684X"].worst
    assert call.removeprefix(f"Time of a call ({images})") == (
        f"{on_the_board(mine[0])} mspredicted → expected on the board, fitted to the vendor's "
        f"within {worst:.1f} %measured by the vendor: {vendors} ms"
    )
    assert {
        "Device memory1.10 MB",
        "Host memory0 B",
        "File843.8 kB",
        "Beside the chip simulatorto the bit4 images",
    } <= set(tiles)


def test_differences_are_those_of_the_results(report):
    page = _Tree(report / "bmodels" / "bm1684x_int8_1b_kl.html").root
    floats, ours = (
        json.loads((report / "results" / f"{one}_greedy.json").read_text("utf8"))
        for one in ("float_1b", "bm1684x_int8_1b_kl")
    )
    wanted = [[file, floats[file], ours[file]] for file in floats if floats[file] != ours[file]]
    assert len(wanted) == 4
    first = next(
        one for one in page.iter("table") if text(one.find("caption")) == "Plates read differently"
    )
    assert [[text(cell) for cell in row] for row in first.find("tbody")] == wanted
