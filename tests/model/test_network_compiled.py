"""Networks of users through the real compiler: emulator, simulator, float, and the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from networks import description, ending, model, save
from typer.testing import CliRunner

from lprnet_nb.cli import app
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages, preprocess
from lprnet_nb.datasets.pictures import load_pictures
from lprnet_nb.decode import decode
from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate.fidelity import cosine, sqnr_db
from lprnet_nb.measure.schema import read_metrics
from lprnet_nb.model.network_file import network_weights, read_network, write_template
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.model.weights import Weights
from lprnet_nb.report.run import NOTEBOOKS, run_notebook
from lprnet_nb.runtime.emulator import load_graph
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.study import search, searched
from lprnet_nb.study.cells import unpack
from lprnet_nb.study.results import read_study
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.compile import compile_bmodel, top_graph
from lprnet_nb.toolchain.layers import layers_of_roles
from lprnet_nb.toolchain.strategies import make_strategy, read_strategy

pytestmark = pytest.mark.slow
QUICK = make_strategy(name="quick", method="max", images=8, tune=0)
IMAGES = 4  # that the simulator runs, seconds each
ROLES = ("first", "last", "name:*features.3*", "op:LeakyRelu")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Weights:
    """What `network new` writes, as it is: random weights."""
    path = tmp_path_factory.mktemp("network") / "mine.py"
    write_template(path)
    return network_weights(read_network(path))


def pictures(weights: Weights, count: int = 8) -> PlateImages:
    return generate_plates(count, 0, workers=0).fitted(weights.of.size)


def compiled(weights: Weights, chip: str, precision: str, strategy=QUICK) -> BModel:
    int8 = precision == "int8"
    return compile_bmodel(
        trace_model(weights),
        chip,
        precision,
        strategy=strategy if int8 else None,
        calibration_images=pictures(weights).images if int8 else None,
    )


def logits(bmodel: BModel, images: PlateImages, backend: str) -> np.ndarray:
    with open_engine(bmodel, backend) as engine:
        return engine.infer(preprocess(images.images, engine.interface.input))


@pytest.mark.parametrize("chip", ["BM1684X", "BM1684"])
def test_the_template_is_exact_on_the_emulator_and_decoded(chip, template):
    """A wrong interface of a BModel (mean, layout, classes) is seen against float and decoding."""
    some = pictures(template, IMAGES)
    base = float_logits(template, some)
    assert base.shape == (IMAGES, 37, 24)
    model = compiled(template, chip, "fp32")
    assert model.name == "mine_fp32_1b" and model.network == "mine"
    full = logits(model, some, "emulator")
    assert np.abs(full - base).max() < 1e-4 * np.abs(base).max()
    assert decode(full, template.alphabet).texts == decode(base, template.alphabet).texts
    model = compiled(template, chip, "int8")
    ours, theirs = (logits(model, some, backend) for backend in ("emulator", "simulator"))
    assert ours.shape == base.shape and np.array_equal(ours, theirs)
    assert 0.99 < cosine(base, ours) < 1 - 1e-7  # INT8, and near


@pytest.mark.parametrize("layout", ["ntc", "tnc", "nc"])
def test_every_layout_is_compiled_and_arranged(layout, tmp_path):
    """One convolution in three layouts; "nc" gives logits of a classifier, without time steps."""
    facts = {"layout": layout}
    if layout == "nc":
        facts |= {"kind": "logits", "classes": None}
    path = save(tmp_path, model(layout=layout), description(**facts))
    weights = network_weights(read_network(path))
    some = pictures(weights, 3)
    base = float_logits(weights, some)
    assert base.shape == ((3, 60, 1) if layout == "nc" else (3, 6, 10))
    full = logits(compiled(weights, "BM1684X", "fp32"), some, "emulator")
    assert np.abs(full - base).max() < 1e-4 * np.abs(base).max()
    bmodel = compiled(weights, "BM1684X", "int8")
    ours, theirs = (logits(bmodel, some, backend) for backend in ("emulator", "simulator"))
    assert np.array_equal(ours, theirs)
    assert 0.99 < cosine(base, ours) < 1 - 1e-7


@pytest.mark.parametrize("role", ROLES)
def test_a_role_keeps_its_layers_in_float(role, template):
    """In the graph that the compiler lowered, and there alone."""
    strategy = QUICK.model_copy(update={"float_roles": (role,)})
    chosen = set(layers_of_roles(top_graph(trace_model(template)).layers, (role,), template.of))
    usual, kept = (
        {op.name: op for op in load_graph(compiled(template, "BM1684X", "int8", one).exported).ops}
        for one in (QUICK, strategy)
    )
    there = chosen & set(usual)
    assert there and not any(usual[name].result.is_float for name in there)
    assert all(kept[name].result.is_float for name in there)
    others = [op for op in kept.values() if "Conv" in op.type and op.name not in chosen]
    assert others and not any(op.result.is_float for op in others)
    some = pictures(template, 2)
    mixed = logits(compiled(template, "BM1684X", "int8", strategy), some, "emulator")
    assert cosine(float_logits(template, some), mixed) > 0.99


def test_an_onnx_file_by_the_command_line(tmp_path, monkeypatch):
    """Compiled, read and compared, its files under its own name; `check` says that all is well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    path = save(tmp_path, model(), description())
    folder = tmp_path / "plates"
    folder.mkdir()
    for number, image in enumerate(generate_plates(8, 0, workers=0).images):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    given = ("--network", path, "--data", folder)
    _run("compile", "BM1684X", *given, "--precisions", "fp32,int8", "--batches", "1")
    made = sorted(Path(tmp_path / "data").rglob("*.bmodel"))
    assert [one.name for one in made] == ["small_fp32_1b.bmodel", "small_int8_1b.bmodel"]
    read = json.loads(_run("infer", made[1], folder, "--backend", "emulator"))
    assert set(read) == {f"{number}.png" for number in range(8)}
    assert all(set(text) <= set("01234") for text in read.values())
    said = json.loads(
        _run("compare", *given, "--chips", "BM1684X", "--precisions", "fp32,int8")
    )  # the folder has no labels
    assert (said["network"], said["images"], len(said["rows"])) == ("small", 8, 3)
    for row in said["rows"][1:]:
        assert row["cosine"] > 0.99 and row["same_text"] > 0.5 and "exact_match" not in row
    assert "equal to the bit" in _run("network", "check", path, "--chips", "BM1684X")


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_study_counts_what_float_reads(tmp_path, monkeypatch):
    """Labels are float's own readings: with other planes, layout or classes next to none is right.

    One strategy names its layers by operation and leaves all in float.
    """
    monkeypatch.chdir(tmp_path)
    toml = description(layout="ntc", order="rgb", mean=[90.0, 127.5, 150.0])
    path = save(tmp_path, model(layout="ntc"), toml)
    weights = network_weights(read_network(path))
    some = generate_plates(16, 0, workers=0).fitted(weights.of.size)
    texts = decode(float_logits(weights, some), weights.alphabet).texts
    folder = tmp_path / "plates"
    folder.mkdir()
    for number, image in enumerate(some.images):
        assert cv2.imwrite(str(folder / f"{number:02}.png"), image)
    names = [f"{number:02}.png,{text}" for number, text in enumerate(texts)]
    (folder / "labels.csv").write_text("\n".join(["file,plate", *names, ""]), "utf8")
    kept = {"name": "kept", "method": "mse", "float_roles": ["op:Conv"]}
    Path("kept.json").write_text(json.dumps(kept), "utf8")
    given = ("--network", path, "--data", folder, "--chips", "BM1684X", "--draws", 1)
    _run("study", "mine.json", *given, "--strategies", "mse,kept.json", "--recommend")
    study = read_study(Path("mine.json"))
    assert study["float"]["correct"] == 16 and study["provenance"]["network"] == "small"
    right = {row["strategy"]: row["correct"] for row in study["rows"]}
    assert right["kept"] >= 14 and right["mse"] >= 8  # in F16, in INT8
    shares = {row["strategy"]: row["in_float"] for row in study["models"]}
    assert shares == {"mse": 0, "kept": 1}
    assert all(row["simulator"]["identical"] for row in study["models"] if "simulator" in row)
    chosen = read_strategy("mine/BM1684X/recommended.json")
    assert chosen.name in right


def test_a_search_is_of_the_network_and_asks_for_its_budget(tmp_path, monkeypatch):
    """Planes and layout are the network's own: with others float's readings would not be right."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("CALIBRATION", 8), ("LEAST", 8), ("METHODS", ("mse", "kl"))):
        monkeypatch.setattr(search, name, value)
        monkeypatch.setattr(searched, name, value, raising=False)
    path = save(tmp_path, model(layout="ntc"), description(layout="ntc", order="rgb"))
    weights = network_weights(read_network(path))
    some = generate_plates(24, 0, workers=0)
    texts = decode(float_logits(weights, some.fitted(weights.of.size)), weights.alphabet).texts
    folder = tmp_path / "plates"
    folder.mkdir()
    for number, image in enumerate(some.images):
        assert cv2.imwrite(str(folder / f"{number:02}.png"), image)
    names = [f"{number:02}.png,{text}" for number, text in enumerate(texts)]
    (folder / "labels.csv").write_text("\n".join(["file,plate", *names, ""]), "utf8")
    given = ("search", "BM1684", "-o", "search.json", "--network", path, "--data", folder)
    with pytest.raises(ParameterError, match="network small has no recommended.*costs 0 work in"):
        _run(*given)
    said = _run(*given, "--budget", 1, "--save", "mine.json")
    found = json.loads(Path("search.json").read_text("utf8"))
    assert found["float"]["correct"] == 24
    assert [one["strategy"] for one in found["beside"]] == ["kl"]
    whole = [unpack(one["bits"], one["images"]) for one in found["points"] if one["budget"] == 1]
    assert np.mean(whole) > 0.8
    assert {point["budget"] for point in found["points"]} >= {0, 1}
    assert "within 1 work in float" in said and "against kl" in said
    assert read_strategy("mine.json").name == "searched-bm1684"
    assert found["shipped"][-1]["proof"]["simulator"]["identical"]


def test_notebook_06_studies_a_network_and_times_what_it_compiles(tmp_path):
    """What it leaves is of this network: no roles, releases or recommendation of LPRNet."""
    path, folder = save(tmp_path, model(), description()), _labelled(tmp_path / "plates", 5, "0")
    quick = tmp_path / "quick.json"
    quick.write_text(QUICK.model_dump_json(include={"name", "method", "images", "tune"}), "utf8")
    values = {"NETWORK": path, "DATA": folder, "STRATEGIES": f"max,{quick}", "OUTPUT_DIR": tmp_path}
    run_notebook(
        "06_strategies",
        tmp_path / "06_strategies.ipynb",
        {name: str(value) for name, value in values.items()} | {"DRAWS": 1},
    )
    study = json.loads((tmp_path / "06_study.json").read_text("utf8"))
    assert {row["strategy"] for row in study["rows"]} == {"max", "quick"}
    drawn = {one.stem for one in (tmp_path / "figures").glob("*.json")}
    assert drawn == {f"06_{what}_BM1684X" for what in ("accuracy", "pareto")} | {"06_live"}
    told = json.dumps([cell["outputs"] for cell in _code(tmp_path / "06_strategies.ipynb")])
    assert "predicts no time" not in told and told.count("it is about LPRNet alone") >= 2


def test_an_explanation_needs_the_network_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    path = save(tmp_path, model(layout="ntc"), description(layout="ntc", order="rgb"))
    other = save(tmp_path, model(layout="ntc", seed=1), description(layout="ntc"), "other")
    folder = tmp_path / "plates"
    folder.mkdir()
    for number, image in enumerate(generate_plates(8, 0, workers=0).images):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    _run(
        *("compile", "BM1684X", "--network", path, "--data", folder, "--precisions", "int8"),
        *("--batches", "1"),
    )
    bmodel = tmp_path / "data" / "models" / "BM1684X" / "small_int8_1b.bmodel"
    for more, message in (((), "from network 'small'"), (("--network", other), "names 'other'")):
        with pytest.raises(ParameterError, match=message):
            _run("explain", bmodel, folder, *more)
    _run("explain", bmodel, folder, "--network", path, "--top", 0, "--output", "why.json")
    found = json.loads(Path("why.json").read_text("utf8"))
    weights = network_weights(read_network(path))
    some = load_pictures([folder], weights.of.size)
    base = float_logits(weights, some)
    int8 = logits(BModel.load(bmodel), some, "emulator")
    assert found["images"] == 8
    assert found["int8"]["snr_db"] == pytest.approx(sqnr_db(base, int8), abs=0.01)
    same = zip(*(decode(made, weights.alphabet).texts for made in (base, int8)))
    assert found["int8"]["as_float"] == sum(a == b for a, b in same)


def test_a_report_of_an_onnx_file_leaves_out_what_is_lprnets(tmp_path, monkeypatch):
    """All notebooks run; captions and tables that they make name no published figure."""
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    path = save(tmp_path, model(), description())
    folder = tmp_path / "plates"
    folder.mkdir()
    lines = ["file,plate"]
    for number, image in enumerate(generate_plates(24, 0, workers=0).images):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(f"{number}.png,{number % 5}{number // 5}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", "utf8")
    _run("report", "--network", path, "--data", folder, "--chips", "BM1684X")
    report = tmp_path / "reports" / "quick"
    notebooks = sorted((report / "notebooks").glob("*.ipynb"))
    assert [one.stem for one in notebooks] == list(NOTEBOOKS)
    made = {one.stem: json.loads(one.read_text("utf8")) for one in report.glob("*/0*.json")}
    assert {"01_operations", "02_latency", "03_costs", "04_crosscheck", "05_metrics"} <= set(made)
    ours = {"01_pools", "01_agreement", "03_channels", "03_drag", "04_exactness", "05_published"}
    assert not ours & set(made)
    for name, one in made.items():
        told = json.dumps(one).replace("vendor's columns", "")
        found = re.findall(r"LPRNet|vendor|sophon|\btorch\b|the published", told)
        assert not found, f"{name}: {found}"
    for one in notebooks:
        outputs = [json.dumps(shown) for cell in _code(one) for shown in cell["outputs"]]
        assert sum("takes the place of LPRNet" in shown for shown in outputs) == 1
        page = (report / "notebooks" / f"{one.stem}.html").read_text("utf8")
        assert "takes the place of LPRNet" in page and "of-lprnet" not in page


def test_an_operation_that_the_compiler_refuses_is_one_line(tmp_path):
    path = save(tmp_path, ending(model(), "Hardmax", axis=1), description(kind="logits"))
    done = CliRunner().invoke(app, ["network", "check", str(path), "--chips", "BM1684X"])
    assert done.exit_code == 1
    *_, last = done.output.strip().splitlines()
    assert re.match(r"FAIL compiler: .*Op not support.*Hardmax.*\.log\)", last), last


def test_a_report_of_logits_decodes_nothing(tmp_path, monkeypatch):
    """Top-1 in the metrics as `compare` counts it, on the pages in words; no labels, no texts."""
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    names = ["Seoul", "Busan", "1", "2", "3", "4"]
    toml = description(kind="logits", layout="tnc", classes=names)
    path = save(tmp_path, model(layout="tnc"), toml)
    folder = tmp_path / "plates"
    folder.mkdir()
    for number, image in enumerate(generate_plates(12, 0, workers=0).images):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    given = ("--network", path, "--data", folder, "--chips", "BM1684X", "--images", 0)
    _run("report", *given)
    said = json.loads(_run("compare", *given))
    wanted = {row["id"]: row["same_top1"] for row in said["rows"] if "same_top1" in row}
    report = tmp_path / "reports" / "quick"
    rows = read_metrics(report / "metrics.json").rows
    assert {row.id: row.same_top1 for row in rows if row.chip} == pytest.approx(wanted, abs=1e-6)
    assert wanted["bm1684x_fp32_1b"] == 1 and 0.9 < wanted["bm1684x_int8_1b_kl"] < 1
    assert {(row.decoder, row.exact_match, row.loss) for row in rows} == {("top", None, None)}
    page = (report / "index.html").read_text("utf8")
    assert "likeliest class at" in page and "nothing is decoded" in page
    for stem in ("04_infer", "05_compare"):
        cells = _code(report / "notebooks" / f"{stem}.ipynb")
        told = json.dumps([one.get("data") for cell in cells for one in cell["outputs"]])
        assert told.count("without decoding and without labels") == 1
        assert told.count("no texts are decoded of them") >= 5
    assert not list(report.glob("*/04_decoders*")) and list(report.glob("*/05_metrics*"))


FORK = """from lprnet_nb.proof.networks import example

def network():
    return example({name!r})
"""
KOREAN = [
    *"0123456789가나다라마거너더러머버서어저고노도로모보",
    *("서울", "부산", "대구", "인천", "광주", "대전", "울산", "세종", "경기", "-"),
]


def _fork(folder: Path, name: str, height: int, classes: object) -> Path:
    """A Python file of a public fork's layout with random weights, and its TOML."""
    path = folder / "fork.py"
    path.write_text(FORK.format(name=name), "utf8")
    toml = description(height=height, width=100, classes=classes)
    path.with_suffix(".toml").write_text(toml, "utf8")
    return path


def _labelled(folder: Path, count: int, text: str) -> Path:
    folder.mkdir()
    for number, image in enumerate(generate_plates(count, 0, workers=0).images):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    lines = [f"{number}.png,{text}{number}" for number in range(count)]
    (folder / "labels.csv").write_text("\n".join(["file,plate", *lines, ""]), "utf8")
    return folder


def test_a_report_of_a_korean_forks_layout_lacks_nothing(tmp_path, monkeypatch):
    """50x100, 19 steps, Mish, class names of two characters; its spatial transformer left out.

    03 looks into its layers, of which Mish is float's softplus there; by 04 the simulator's logits
    are the emulator's to the bit, means over 43,776 values among them.
    """
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    path = _fork(tmp_path, "korean-fork", 50, KOREAN)
    folder = _labelled(tmp_path / "plates", 24, "서울12가")
    _run(
        *("report", "--network", path, "--data", folder),
        *("--chips", "BM1684X", "--precisions", "int8"),
    )
    report = tmp_path / "reports" / "quick"
    told = json.dumps([cell["outputs"] for cell in _code(report / "notebooks/03_quantize.ipynb")])
    assert "does not know" not in told and (report / "figures/03_layers.json").is_file()
    [row] = json.loads((report / "tables" / "04_crosscheck.json").read_text("utf8"))["rows"]
    assert (row["checked images"], row["exactness"]) == (4, "to the bit")


def test_a_report_of_a_vietnamese_forks_layout_with_its_norm(tmp_path, monkeypatch):
    """40x100, 37 classes, LeakyReLU, the sum of its L2 norm; the simulator's to the bit."""
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    path = _fork(tmp_path, "vietnamese-fork-norm", 40, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
    folder = _labelled(tmp_path / "plates", 24, "51A12")
    _run(
        *("report", "--network", path, "--data", folder),
        *("--chips", "BM1684X", "--precisions", "int8"),
    )
    report = tmp_path / "reports" / "quick"
    [row] = json.loads((report / "tables" / "04_crosscheck.json").read_text("utf8"))["rows"]
    assert (row["checked images"], row["exactness"]) == (4, "to the bit")


def _code(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]
