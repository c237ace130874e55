"""The tour: a report without the compiler, of what is packaged; and that this is the compiler's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.measure.data import Data
from lprnet_nb.measure.models import planned
from lprnet_nb.measure.parameters import check
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.report import run, tour
from lprnet_nb.report.profiles import PROFILES
from lprnet_nb.runtime.emulator import native
from lprnet_nb.steps import gen_bmodels
from lprnet_nb.toolchain import packaged as p
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.releases import PINNED

PROFILE = PROFILES["tour"]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with no cache, no data, no mirror, and no Python 3.10 to install a compiler."""
    monkeypatch.delenv("LPRNET_MIRROR", raising=False)
    monkeypatch.delenv("LPRNET_TPU_MLIR", raising=False)
    monkeypatch.setenv("LPRNET_PYTHON310", str(tmp_path / "none"))
    for name in ("CACHE", "DATA", "REPORTS"):
        monkeypatch.setenv(f"LPRNET_{name}", str(tmp_path / name.lower()))
    return tmp_path


@pytest.fixture(scope="module")
def data():
    plates = generate_plates(4, seed=0)
    return Data(plates, plates, True, load_own_weights(), "generated", "chosen")


def test_the_tours_models_are_packaged(data):
    """Fails when weights, a recommended strategy or the pinned release are others than packaged."""
    models = planned(check(**PROFILE), data)
    assert [one.id for one in models] == [
        f"{chip}_{rest}"
        for chip in ("bm1684x", "bm1684")
        for rest in ("fp32_1b", "int8_1b_kl", "int8_1b_recommended")
    ]
    assert p.packaged_index()["tpu_mlir"] == PINNED
    for model in (one.model.arguments["value"] for one in models):
        assert not model.path.exists() and p.float_of(model).form == model.form
    archive = p.Path(p.__file__).with_name(p.ARCHIVE)
    assert archive.stat().st_size <= 4_000_000


def test_a_report_is_made_where_no_compiler_is(bare, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = run.make_report("tour", notebooks=("05_compare",), IMAGES=6).parent
    metrics = json.loads((folder / "metrics.json").read_text("utf8"))
    keys = ("chip", "precision", "strategy", "decoder")
    rows = {tuple(row[key] for key in keys): row for row in metrics["rows"]}
    assert len(rows) == 2 * (1 + 6)
    for chip in ("BM1684X", "BM1684"):
        row = rows[chip, "fp32", None, "greedy"]
        assert (row["backend"], row["agreement_with_float"]) == ("emulator", 1.0)
    assert all(one["tools"] == {"tpu_mlir": PINNED} for one in metrics["models"].values())
    for path in (folder / "bmodels").glob("*.json"):
        facts = json.loads(path.read_text("utf8"))
        assert (facts["crosscheck"]["images"], facts["crosscheck"]["identical"]) == (4, True)
        assert facts["memory"]["file_bytes"] > 600_000 and "net 0: [lprnet]" in facts["info"]
    manifest = json.loads((folder / "manifest.json").read_text("utf8"))
    assert manifest["packaged"] == p.archive_digest()
    assert_banners(folder, 2 * (1 + 1 + 6))
    assert not (bare / "cache" / "artifacts" / "bmodel").exists()


def assert_banners(folder, count):
    """Every page says what it is of, before anything else."""
    pages = list(folder.rglob("*.html"))
    assert len(pages) == count
    for page in pages:
        text = page.read_text("utf8")
        assert text.index('class="banner"') < text.index("<h1"), page


@pytest.mark.slow
def test_the_whole_tour_is_made(bare, monkeypatch):
    """Five notebooks, each in its kernel: minutes on busy cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = run.make_report("tour", IMAGES=6).parent
    proof = json.loads((folder / "tables" / "02_proof.json").read_text("utf8"))["rows"]
    assert [row["images"] for row in proof] == [4] * 6
    assert {row["same text as float"] for row in proof if "fp32" in row["model"]} == {4}
    assert_banners(folder, 2 * (1 + 5 + 6))


@pytest.mark.slow
def test_the_whole_tour_is_made_without_a_c_compiler(bare, monkeypatch, capsys):
    """PyTorch runs the graphs, slower, and terminal, manifest and pages say so."""
    (bare / "bin").mkdir()
    (bare / "bin" / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(bare / "bin"))
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    folder = run.make_report("tour").parent
    said = "PyTorch, slower: no C compiler found (cc, gcc, clang)"
    assert f"the emulator runs in {said}" in " ".join(capsys.readouterr().err.split())
    manifest = json.loads((folder / "manifest.json").read_text("utf8"))
    assert manifest["machine"]["emulator"] == said
    assert said in (folder / "index.html").read_text("utf8")
    metrics = json.loads((folder / "metrics.json").read_text("utf8"))
    rows = [row for row in metrics["rows"] if row["backend"] == "emulator"]
    assert len(rows) == 2 * 6 and all(row["images"] == 50 for row in rows)
    assert_banners(folder, 2 * (1 + 5 + 6))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["00_start", "01_trace", "03_quantize", "04_infer"])
def test_other_notebooks_run_too(bare, notebook):
    values = {**PROFILE, "IMAGES": 6, "OUTPUT_DIR": str(bare)}
    declared = run.declared_parameters(run.notebook_path(notebook))
    given = {key: value for key, value in values.items() if key in declared}
    run.run_notebook(notebook, bare / f"{notebook}.ipynb", given)


@pytest.mark.slow
def test_notebook_06_shows_the_packaged_study(bare):
    given = {"TOOLCHAIN": "packaged", "IMAGES": 6, "OUTPUT_DIR": str(bare)}
    run.run_notebook("06_strategies", bare / "06.ipynb", given)
    made = json.loads((bare / "06_study.json").read_text("utf8"))
    assert made == p.packaged_study() and made["float"]["images"] == 240


@pytest.mark.slow
def test_notebook_07_runs_where_nothing_is(bare):
    run.run_notebook("07_train", bare / "07.ipynb", {"PLATES": 124, "OUTPUT_DIR": str(bare)})
    there = {path.stem for path in (bare / "figures").glob("07_*.json")}
    assert {"07_training", "07_provinces", "07_severity", "07_margins"} <= there


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WEIGHTS": "published"}, "WEIGHTS='published' takes the compiler"),
        ({"BACKEND": "simulator"}, "BACKEND='simulator' takes the compiler"),
        ({"BATCH_MEAN": "batch"}, "BATCH_MEAN='batch' takes the compiler"),
        ({"TPU_MLIR": "1.18.1"}, "TOOLCHAIN='packaged' is not"),
        ({"CORES": "2", "CHIPS": "BM1688"}, "TOOLCHAIN='packaged' compiles for one core"),
    ],
)
def test_what_only_compiling_gives_is_refused_at_once(changes, message):
    with pytest.raises(ParameterError, match=message):
        check(**{**PROFILE, **changes})


@pytest.mark.parametrize(
    "changes", [{"PRECISIONS": "fp16"}, {"CHIPS": "BM1688"}, {"STRATEGIES": "mse"}, {"BATCHES": 4}]
)
def test_what_is_not_packaged_is_refused_with_what_is(data, changes):
    with pytest.raises(ParameterError, match=r"is not packaged\. There are: BM1684X fp32 batch 1,"):
        planned(check(**{**PROFILE, **changes}), data)
    with pytest.raises(ParameterError, match="no BModels"):
        gen_bmodels(check(**{**PROFILE, "STRATEGIES": "kl"}))


def test_a_damaged_archive_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    whole = p.Path(p.__file__).with_name(p.ARCHIVE).read_bytes()
    for data in (whole[: len(whole) // 2], whole[:99] + bytes(99) + whole[198:], b""):
        (tmp_path / p.ARCHIVE).write_bytes(data)
        monkeypatch.setattr(p.resources, "files", lambda _: tmp_path)
        with pytest.raises(DataError, match="packaged graphs cannot be read.*Install the package"):
            p.packaged()


@pytest.mark.slow
def test_what_is_packaged_is_what_the_compiler_gives(compiler, tmp_path):
    """Everything is compiled, simulated and studied anew; minutes."""
    made = tour.gather(tmp_path)
    there = p.packaged()
    index = p.packaged_index()
    assert json.loads((made / p.INDEX).read_text("utf8")) == index
    for name in (model["folder"] for model in index["models"]):
        new, old = BModel.load(made / name), BModel.load(there / name)
        assert (new.sha256, new.tools) == (old.sha256, old.tools)
        for file in ("graph/graph.npz", "simulator/logits.npy"):
            a, b = (np.load(folder / name / file) for folder in (made, there))
            if file.endswith(".npy"):
                assert np.array_equal(a, b)
            else:
                assert a.files == b.files and all(np.array_equal(a[k], b[k]) for k in a.files)
        for file in ("graph/graph.json", "lprnet.info.json", p.EXPLAINED, *tour.KEPT):
            both = [(folder / name / file) for folder in (made, there)]
            assert both[0].exists() == both[1].exists()
            assert not both[0].exists() or both[0].read_bytes() == both[1].read_bytes()
    new, old = (json.loads((folder / p.STUDY).read_text("utf8")) for folder in (made, there))
    assert (new["rows"], new["float"]) == (old["rows"], old["float"])
