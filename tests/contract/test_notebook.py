"""Notebook 04 on a device: without sail, and with the stand-in in its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest

from lprnet_nb.errors import LprnetError
from lprnet_nb.report.run import run_notebook

QUICK = {"IMAGES": 4, "CHIPS": "BM1688", "PRECISIONS": "int8", "STRATEGIES": "mse"}


def run(folder: Path, backend: str) -> Path:
    run_notebook(
        "04_infer", folder / "04.ipynb", QUICK | {"BACKEND": backend, "OUTPUT_DIR": str(folder)}
    )
    return folder


def last_told(folder: Path) -> str:
    """What the last cell tells: every plate's label, reading, runner-up and margin."""
    cells = nbformat.read(folder / "04.ipynb", 4).cells
    cell = [cell for cell in cells if cell.cell_type == "code"][-1]
    told = [output.data for output in cell.outputs if output.output_type == "display_data"]
    return "\n".join(data["text/plain"] for data in told)


@pytest.mark.slow
def test_without_sail_one_error_says_what_to_install(published, compiler, tmp_path):
    """`pytest -m slow tests/contract/test_notebook.py`, half a minute a run."""
    with pytest.raises(LprnetError) as caught:
        run(tmp_path, "device")
    [message, where] = str(caught.value).splitlines()
    assert message.startswith("notebook 04_infer, cell ") and "EngineError: " in message
    assert "needs sophon.sail" in message and "comes with Sophgo's SDK" in message
    assert 'use backend="simulator"' in message
    assert where.endswith("04.ipynb")


@pytest.mark.slow
def test_with_sail_on_the_path_it_reads_as_on_the_simulator(
    published, standin, tmp_path, monkeypatch
):
    package = tmp_path / "path" / "sophon"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sail.py").write_text(
        f"from {standin} import *\nfrom {standin} import __version__\n", "utf8"
    )
    simulated = run(tmp_path / "simulator", "simulator")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{os.environ['PYTHONPATH']}")
    made = run(tmp_path / "device", "device")
    assert last_told(made) == last_told(simulated)
    assert last_told(made).count("皖") >= 4
    for table in ("04_step_table", "04_errors"):
        here, there = (
            json.loads((folder / "tables" / f"{table}.json").read_text("utf8"))["rows"]
            for folder in (made, simulated)
        )
        assert here == there
    [check] = json.loads((made / "tables" / "04_crosscheck.json").read_text("utf8"))["rows"]
    assert (check["backend"], check["judge"], check["checked images"]) == ("device", "simulator", 4)
    assert check["exactness"] == "to the bit"
