"""Networks of users through the real compiler: emulator, simulator, float, and the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from networks import description, model, save
from typer.testing import CliRunner

from lprnet_nb.cli import app
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages, preprocess
from lprnet_nb.decode import decode
from lprnet_nb.evaluate.fidelity import cosine
from lprnet_nb.model.network_file import network_weights, read_network, write_template
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.model.weights import Weights
from lprnet_nb.runtime.emulator import load_graph
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.compile import compile_bmodel, top_graph
from lprnet_nb.toolchain.layers import layers_of_roles
from lprnet_nb.toolchain.strategies import make_strategy

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


def test_a_report_of_an_onnx_file_leaves_out_what_is_lprnets(tmp_path, monkeypatch):
    """Notebooks 02, 04 and 05 run; captions and tables that they make name no published figure."""
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
    assert [one.stem for one in notebooks] == ["02_compile", "04_infer", "05_compare"]
    made = {one.stem: json.loads(one.read_text("utf8")) for one in report.glob("*/0*.json")}
    assert {"02_latency", "04_crosscheck", "05_metrics"} <= set(made)
    assert not {"04_exactness", "05_published"} & set(made)
    for name, one in made.items():
        told = json.dumps(one).replace("vendor's columns", "")
        found = re.findall(r"LPRNet|vendor|sophon|\btorch\b|the published", told)
        assert not found, f"{name}: {found}"
    for one in notebooks:
        said = json.dumps([c["outputs"] for c in _code(one)], ensure_ascii=False)
        assert said.count("takes the place of LPRNet") == 1


def _code(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]
