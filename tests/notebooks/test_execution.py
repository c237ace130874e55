"""The notebooks, run by papermill on a few plates: the values that they leave."""

from __future__ import annotations

import json
import math
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from lprnet_nb.decode import DECODERS
from lprnet_nb.errors import LprnetError, ParameterError
from lprnet_nb.language import LANGUAGES, speaking
from lprnet_nb.lessons import infer
from lprnet_nb.measure import parameters
from lprnet_nb.report.notebook_pages import convert
from lprnet_nb.report.run import (
    NOTEBOOKS,
    declared_parameters,
    left_out,
    notebook_path,
    run_notebook,
)

EXECUTED: list[Path] = []  # notebooks that this process has run, for the pages made of them
TINY = {"IMAGES": 4, "CHIPS": "BM1684X", "PRECISIONS": "fp32,int8", "BATCHES": "1"}


class Left:
    """What one notebook left."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.cells = nbformat.read(folder / "notebooks" / f"{name}.ipynb", 4).cells

    def table(self, name: str) -> list[dict[str, Any]]:
        return json.loads((self.folder / "tables" / f"{name}.json").read_text("utf8"))["rows"]

    def printed(self) -> str:
        return "".join(
            output.get("text", "")
            or output.get("data", {}).get("text/markdown", "")
            or output.get("data", {}).get("text/plain", "") + "\n"
            for cell in self.cells
            if cell.cell_type == "code"
            for output in cell.outputs
        )

    def words(self) -> int:
        """Of prose, of sentences and in tables."""
        prose = " ".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
        shown = re.sub("<style.*?</style>|<[^>]*>", " ", self.html(), flags=re.S)
        return len(" ".join((prose, self.printed(), shown)).split())

    def shown_tables(self) -> set[str]:
        """Tables that a reader of the notebook sees."""
        return set(re.findall(r'<table id="T_(\w+)"', self.html()))

    def html(self) -> str:
        return "".join(
            output.get("data", {}).get("text/html", "")
            for cell in self.cells
            if cell.cell_type == "code"
            for output in cell.outputs
        )

    def tables(self) -> set[str]:
        return {path.stem for path in (self.folder / "tables").glob("*.json")}

    def figures(self) -> set[str]:
        found = [p for p in (self.folder / "figures").iterdir() if p.suffix != ".json"]
        assert all(0 < path.stat().st_size < 300_000 for path in found)
        others = tuple(f".{language}" for language in LANGUAGES)
        return {path.stem for path in found if not path.stem.endswith(others)}


@pytest.fixture(scope="module")
def strategies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two strategies that calibrate in seconds: four images, no tuning."""
    folder = tmp_path_factory.mktemp("strategies")
    names = []
    for form in ("published", "forked"):
        path = folder / f"tiny-{form}.json"
        path.write_text(
            json.dumps(
                {"name": f"tiny-{form}", "method": "mse", "images": 4, "tune": 0, "form": form}
            )
        )
        names.append(str(path))
    return ",".join(names)


@pytest.fixture(scope="module")
def run(published, compiler, tmp_path_factory, strategies):
    """Run a notebook with tiny parameters; each has a folder of its own."""
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # four images are not worth a second thread

    def one(name: str, **given: Any) -> Left:
        folder = tmp_path_factory.mktemp(name)
        values = {**TINY, "STRATEGIES": strategies, "OUTPUT_DIR": str(folder), **given}
        declared = declared_parameters(notebook_path(name))
        run_notebook(
            name,
            folder / "notebooks" / f"{name}.ipynb",
            {key: value for key, value in values.items() if key in declared},
        )
        EXECUTED.append(folder / "notebooks" / f"{name}.ipynb")
        return Left(name, folder)

    yield one
    if threads is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = threads


def test_01_trace(run) -> None:
    left = run("01_trace", BATCHES="1,2")
    assert "446,976 parameters, 68 classes" in left.printed()
    assert "both pools, all values: 0.0\n" in left.printed()
    assert "Unsupported memory format" in left.printed()
    coupling = left.table("01_coupling")
    assert [(r["batch"], r["batch_mean"]) for r in coupling] == [
        (1, "batch"),
        (1, "image"),
        (2, "batch"),
        (2, "image"),
    ]
    alone = [r["moved"] for r in coupling if r["batch"] == 2 and r["batch_mean"] == "batch"]
    assert f"{alone[0]} of 4 at batch 2 read unlike alone; with the mean over the image, none" in (
        left.printed()
    )
    assert all(r["moved"] == 0 for r in coupling if r["batch_mean"] == "image" or r["batch"] == 1)
    agreement = {r["form"]: r for r in left.table("01_agreement")}
    assert len(agreement) == 7
    assert all(r["readings that differ"] == 0 for r in agreement.values())
    assert agreement["portable"]["largest difference"] == 0
    assert agreement["ONNX of the forked"]["largest difference"] < 1e-3
    assert len(left.table("01_traces")) == 2
    assert left.figures() == {
        "01_network",
        "01_pools",
        "01_coupling",
        "01_preprocessing",
        "01_preprocessing_accuracy",
        "01_subnormals",
        "01_agreement",
    }


def test_02_compile(run) -> None:
    left = run("02_compile")
    roles = {r["role"]: r for r in left.table("02_layers")}
    assert roles["context-divide"]["layers"] == "4 Div"
    assert roles["final-mean"]["output"] == "68×18"
    float_model, int8 = left.table("02_contents")[:2]
    assert 0.25 < int8["weights kB"] / float_model["weights kB"] < 0.6
    latency = {r["label"]: r for r in left.table("02_latency")}
    assert latency["BM1684X fp32"]["predicted_ms"] == pytest.approx(0.277, rel=0.05)
    assert latency["BM1684X fp32"]["published_ms"] == 0.883
    proof = {r["model"]: r for r in left.table("02_proof")}
    assert proof["BM1684X fp32"]["same text as float"] == 4
    assert proof["BM1684X fp32"]["largest difference"] < 1e-2
    assert proof["BM1684X int8 tiny-published"]["cosine"] > 0.98
    assert "net 0: [lprnet]" in left.printed()
    assert {"02_memory", "02_latency", "02_timeline", "02_slowest"} == left.figures()


def test_03_quantize(run) -> None:
    left = run("03_quantize")
    rows = left.table("03_thresholds")
    assert [r["layer"] for r in rows] == [2, 6, 10, 13, 18, 22]
    assert all(0 < r["tiny-published"] <= 1.001 * r["largest"] for r in rows)
    # The finding that the notebook tells: one wide channel leaves the kept ones a few levels.
    assert "With a scale of their own they have 255." in left.printed()
    shared = int(left.printed().split("That leaves the kept channels ")[1].split()[0])
    assert 2 <= shared <= 30
    assert all(math.isfinite(r["SQNR dB"]) for r in left.table("03_worst"))
    assert {
        "03_calibration",
        "03_histogram",
        "03_drag",
        "03_layers",
        "03_channels",
        "03_reading",
        "03_costs",
    } == left.figures()


def test_04_infer(run, published) -> None:
    left = run("04_infer")
    checks = left.table("04_crosscheck")
    assert [r["checked images"] for r in checks] == [4, 4, 4]
    assert all(r["largest difference"] < 2 for r in checks)
    steps = left.table("04_step_table")
    assert len(steps) == 18
    written = "".join(
        r["greedy"].removeprefix("writes ") for r in steps if r["greedy"].startswith("writes")
    )
    assert 6 <= len(written) <= 8
    assert all(r["probability"] >= r["its probability"] for r in steps)
    for row in left.table("04_errors"):
        assert row["short"] + row["long"] + row["substituted"] == row["wrong"]
    assert {r["decoder"] for r in left.table("04_errors")} == {"greedy", "plate"}
    assert all(r["inference"] > 0 for r in left.table("04_times"))
    assert left.shown_tables() == left.tables()  # also the one within an `if`
    cases = {f"04_{kind}" for kind in infer.KINDS}
    text = " none of: " if cases - left.figures() else ""
    assert text in left.printed()
    assert left.figures() - cases == {
        "04_steps",
        "04_decoders",
        "04_views",
        "04_times",
    }
    exact = [r for r in left.table("04_exactness") if r["judge"] == "interpreter"]
    assert exact and {r["exactness"] for r in exact} == {"to the bit"}


def test_05_compare(run) -> None:
    left = run("05_compare")
    metrics = json.loads((left.folder / "metrics.json").read_text("utf8"))
    assert metrics["schema"] == 3 and metrics["dataset"]["images"] == 4
    rows = metrics["rows"]
    assert len(rows) == 2 * 4  # decoders; float, fp32, two of int8
    for row in rows:
        assert row["ci95"][0] <= row["exact_match"] <= row["ci95"][1]
        if row["chip"] and row["precision"] == "fp32":
            assert (row["agreement_with_float"], row["mcnemar_p"]) == (1.0, 1.0)
        if row["precision"] == "int8":
            assert 0.98 < row["logits_cosine"] < 1 and row["logits_sqnr_db"] > 10
    results = json.loads((left.folder / "results" / "float_1b_greedy.json").read_text("utf8"))
    assert len(results) == 4
    assert all(r["p"] <= r["p_holm"] <= 1 for r in left.table("05_paired"))
    assert left.table("05_published")[0]["exact match"] == 0.894
    assert {
        "05_accuracy",
        "05_paired",
        "05_characters",
        "05_confusions",
        "05_logits",
        "05_gallery",
        "05_reliability",
        "05_coverage",
    } == left.figures()


@pytest.mark.parametrize("forms", [["published"], ["forked"], ["forked", "published"]])
@pytest.mark.slow
def test_03_takes_any_order_of_strategies(run, strategies, forms) -> None:
    published, forked = strategies.split(",")
    paths = {"published": published, "forked": forked}
    left = run("03_quantize", STRATEGIES=",".join(paths[form] for form in forms))
    said = "No strategy of tiny-forked keeps the published form" in left.printed()
    assert said == (forms == ["forked"])
    assert ("03_channels" in left.figures()) == ("published" in forms)
    assert {"03_drag", "03_layers", "03_reading"} <= left.figures()


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("study") / "tiny.json"
    path.write_text(json.dumps({"name": "tiny", "method": "max", "images": 4, "tune": 0}))
    return str(path)


def test_06_strategies(run, tiny_study) -> None:
    left = run("06_strategies", STRATEGIES=tiny_study, IMAGES=16, DRAWS=2)
    study = json.loads((left.folder / "06_study.json").read_text("utf8"))
    assert {(r["draw"], r["scheme"]) for r in study["rows"]} == {(0, "cross-fit"), (1, "cross-fit")}
    releases = {"06_releases", "06_changes", "06_published"}
    own = {"06_recommended", "06_band", "06_worlds"}
    assert left.shown_tables() == left.tables() == own | releases
    assert {"06_live", "06_verdicts", "06_worlds", "06_roles", "06_company"} <= left.figures()
    assert left.printed().count("A tip holds where") == 1  # the rule, in one place
    # It had 39 cells, and 8,423 words of prose, sentences and tables; papermill adds one cell.
    assert len(left.cells) - 1 <= 39 / 3 and left.words() < 8423 / 3


def test_07_train(run) -> None:
    left = run("07_train", PLATES=62, REAL_IMAGES=40, TRAIN_STEPS=2, SEED=3)
    sets = {r["set"]: r for r in left.table("07_accuracy")}
    assert [r["plates"] for r in sets.values()][:2] == [62, 40]
    assert sum(r["plates"] for name, r in sets.items() if name.startswith("length")) == 62
    shares = [r["of all doubt"] for r in left.table("07_doubt")]
    assert shares == sorted(shares) and 0 < shares[0] <= 1
    assert left.shown_tables() == left.tables()
    drawn = {path.stem for path in (left.folder / "figures").glob("*.json")}
    names = "forms sheets training provinces severity doubt margins"
    assert drawn == {f"07_{name}" for name in names.split()}


def test_00_start(tmp_path) -> None:
    run_notebook("00_start", tmp_path / "00.ipynb", {"OUTPUT_DIR": str(tmp_path)})
    assert (tmp_path / "figures" / "00_map.svg").exists()


WITHOUT_WORDS = {"03_calibration", "03_layers"}  # photographs; names of layers and strategies
# Printed by the compiler and by torch, word for word.
OF_TOOLS = re.compile("Unsupported memory format")
ENGLISH_WORDS = re.compile(r"[^\n]*\b[A-Za-z]+(?: [a-z][a-z']*){3,}[^\n]*")  # four in a row


def test_pages_in_chinese_have_no_english_left() -> None:
    """Of the notebooks that ran above: prose, sentences, tables; in figures, their words."""
    if not EXECUTED:
        pytest.skip("no notebook has run in this process")
    found = {}
    for path in EXECUTED:
        with speaking("zh"):
            body = str(convert(path).body)
        text = re.sub(
            r'<div class="[^"]*highlight.*?</div>|<code\b.*?</code>', "", body, flags=re.S
        )
        left = ENGLISH_WORDS.findall(unescape(re.sub("<[^>]*>", "\n", text)))
        found[path.stem] = [line.strip() for line in left if not OF_TOOLS.search(line)]
        drawn = path.parent.parent / "figures"
        told = [json.loads(one.read_text("utf8")) for one in sorted(drawn.glob("*.json"))]
        words = [one for one in told if one["file"].partition(".")[0] not in WITHOUT_WORDS]
        found[f"{path.stem}: figures"] = [one["file"] for one in words if "files" not in one]
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("name", ["03_quantize", "07_train"])
def test_papermill_itself_is_refused_an_unknown_parameter(name: str, tmp_path) -> None:
    """`papermill notebook.ipynb out.ipynb -p CHIP BM1688` only warns."""
    with pytest.raises(
        PapermillExecutionError, match="has no parameter 'CHIP'. It has: .*OUTPUT_DIR"
    ):
        papermill.execute_notebook(
            str(notebook_path(name)),
            str(tmp_path / "out.ipynb"),
            parameters={"CHIP": "BM1688", "OUTPUT_DIR": ""},
            kernel_name="python3",
            progress_bar=False,
        )


def test_03_says_what_tpu_nntc_cannot_do(tmp_path) -> None:
    with pytest.raises(
        LprnetError, match='TOOLCHAIN="nntc".*TPU-NNTC leaves neither.*TOOLCHAIN="mlir"'
    ):
        run_notebook("03_quantize", tmp_path / "03.ipynb", {"TOOLCHAIN": "nntc"})


def test_a_report_of_tpu_nntc_leaves_out_what_it_cannot_do() -> None:
    assert left_out({"TOOLCHAIN": "nntc"}, NOTEBOOKS).keys() == {"03_quantize"}
    assert left_out({"TOOLCHAIN": "mlir"}, NOTEBOOKS) == left_out({}, NOTEBOOKS) == {}


def test_a_parameter_that_is_not_declared(tmp_path) -> None:
    with pytest.raises(ParameterError, match="has no parameter 'CHIP'. It has: .*CHIPS"):
        run_notebook("05_compare", tmp_path / "05.ipynb", {"CHIP": "BM1684X"})


def test_an_impossible_value_stops_a_notebook(tmp_path) -> None:
    with pytest.raises(LprnetError, match="cell .*ParameterError: .*'bm9'.*BM1684X"):
        run_notebook("05_compare", tmp_path / "05.ipynb", {"CHIPS": "bm9"})
    assert (tmp_path / "05.ipynb").exists()


def test_every_decoder_is_a_possible_parameter() -> None:
    assert parameters.check(DECODERS=",".join(DECODERS)).decoders == DECODERS
