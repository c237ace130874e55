"""Running notebooks: real papermill and a real kernel on small notebooks of the test's own."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from threading import Thread

import nbformat
import pytest
from report_sample import build

from lprnet_nb import inputs
from lprnet_nb.datasets.generate import generate_plates, write_plates
from lprnet_nb.errors import DataError, LprnetError, ParameterError
from lprnet_nb.files import private_folder
from lprnet_nb.measure.parameters import check
from lprnet_nb.report import kernels
from lprnet_nb.report import run as r


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(r, "repository", lambda: tmp_path)
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    parameters = nbformat.v4.new_code_cell('CHIPS = "BM1684X"\nOUTPUT_DIR = ""')
    parameters.metadata["tags"] = ["parameters"]

    def add(name, *cells):
        notebook = nbformat.v4.new_notebook(
            cells=[parameters, *map(nbformat.v4.new_code_cell, cells)],
            metadata={
                "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}
            },
        )
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")

    return add


def test_parameters_reach_the_notebook_and_its_output_is_kept(notebooks, tmp_path):
    notebooks("01_x", "print(CHIPS + '!')")
    done = r.run_notebook("01_x", tmp_path / "out" / "01_x.ipynb", {"CHIPS": "BM1688"})
    outputs = [o for cell in nbformat.read(done, 4).cells for o in cell.get("outputs", [])]
    assert outputs[0]["text"] == "BM1688!\n"


def test_a_users_own_settings_and_files_do_not_reach_the_kernel(notebooks, tmp_path, monkeypatch):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text("import builtins; builtins.mine = 'startup'\n")
    (tmp_path / "start.py").write_text("import builtins; builtins.mine = 'PYTHONSTARTUP'\n")
    (tmp_path / "ipython" / "matplotlibrc").write_text("text.usetex: True\nfont.size: 77\n")
    (tmp_path / "csv.py").write_text("raise SystemExit\n")
    for name, value in {
        "IPYTHONDIR": tmp_path / "ipython",
        "PYTHONSTARTUP": tmp_path / "start.py",
        "MATPLOTLIBRC": tmp_path / "ipython" / "matplotlibrc",
        "PYTHONPATH": "",
    }.items():
        monkeypatch.setenv(name, str(value))
    notebooks(
        "01_x",
        "import builtins, matplotlib\n"
        "print(getattr(builtins, 'mine', None), matplotlib.rcParams['text.usetex'])\n"
        "matplotlib.rcParams['text.usetex'] = True\n"
        "from lprnet_nb.figures import style\n"
        "style.blank(1, 1)\n"
        "import csv\n"
        "print(matplotlib.rcParams['text.usetex'], csv.QUOTE_ALL)",
    )
    done = r.run_notebook("01_x", tmp_path / "out.ipynb", {})
    outputs = [o for cell in nbformat.read(done, 4).cells for o in cell.get("outputs", [])]
    assert "".join(o["text"] for o in outputs) == "None False\nFalse 1\n"


def test_what_a_kernel_says_as_it_ends_stays_off_the_terminal(notebooks, tmp_path, capfd):
    """ipykernel calls the interrupt that ends it an error; an error in a cell is told otherwise."""
    said = "KeyboardInterrupt caught in kernel"
    notebooks("01_x", f"get_ipython().kernel.log.error('{said}')", "print('done')")
    done = r.run_notebook("01_x", tmp_path / "out.ipynb", {})
    assert "done" in done.read_text("utf8") and said not in "".join(capfd.readouterr())


def test_an_undeclared_parameter_is_an_error_before_anything_runs(notebooks, tmp_path):
    notebooks("01_x", "1/0")
    with pytest.raises(ParameterError, match="no parameter 'CHIP'. It has: CHIPS, OUTPUT_DIR"):
        r.run_notebook("01_x", tmp_path / "out.ipynb", {"CHIP": "BM1688"})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_failing_cell_is_one_clear_error_and_the_notebook_as_far_as_it_ran_is_kept(
    notebooks, tmp_path
):
    notebooks("01_x", "print('before')", "raise ValueError('the reason')")
    with pytest.raises(
        LprnetError, match="(?s)01_x, cell [0-9]: ValueError: the reason.*out.ipynb"
    ):
        r.run_notebook("01_x", tmp_path / "out.ipynb", {})
    assert "before" in (tmp_path / "out.ipynb").read_text("utf8")


def test_the_terminal_is_told_which_step_of_how_many(notebooks, tmp_path, capsys):
    notebooks("01_x", "1")
    notebooks("02_y", "1 / 0")
    folder = write_plates(generate_plates(70, 3, workers=0), tmp_path / "plates").parent
    given = {"DATA": str(folder), "WEIGHTS": "generated", "IMAGES": 20, "STRATEGIES": "kl-20"}
    with pytest.raises(LprnetError, match="ZeroDivisionError"):
        r.make_report("quick", notebooks=("01_x", "02_y"), **given)
    first, done, second = capsys.readouterr().err.splitlines()[-3:]
    assert first == "step 1 of 2: 01_x …" and second == "step 2 of 2: 02_y …"
    assert re.fullmatch(r"step 1 of 2: 01_x done in \d+ s, \d+ s in all", done)


PLACE = "import os, pathlib, time\nplace = pathlib.Path(OUTPUT_DIR)\n"


@pytest.fixture
def side_by_side(notebooks, tmp_path, monkeypatch):
    """Run two notebooks as a tour's: the first ends with the first of the cells, the second goes on
    with the others."""
    monkeypatch.setattr(r, "workers_here", lambda: 2)

    def run(*cells):
        told = "_ = (place / '{}').write_text(str(os.getpid()))"
        threads = "print(os.environ['OMP_NUM_THREADS'])"
        notebooks("01_x", PLACE + told.format("first"), threads, cells[0])
        notebooks("02_y", PLACE + told.format("second"), *cells[1:])
        paths = {name: r.notebook_path(name) for name in ("01_x", "02_y")}
        return r._run_notebooks(paths, {"TOOLCHAIN": "packaged"}, tmp_path)

    return run


WAIT = (
    "for _ in range(1200):\n"
    "    if (place / '{}').exists():\n        break\n"
    "    time.sleep(0.1)\n"
    "else:\n    raise TimeoutError('alone')"
)


def ended(tmp_path, *names):
    """Whether the kernels that left their numbers are gone, and their settings' folders."""
    for name in names:
        process = Path(f"/proc/{(tmp_path / name).read_text()}")
        assert not process.exists() or "\nState:\tZ" in (process / "status").read_text()
    return not kernels._running and not list(private_folder().glob("ipython-*"))


def test_a_tours_notebooks_run_side_by_side(side_by_side, tmp_path, monkeypatch):
    """Each waits for the other; and a kernel has its share of the cores."""
    monkeypatch.setattr(r, "cores_here", lambda: 6)
    before = dict(os.environ), os.getcwd()
    seconds = side_by_side(WAIT.format("second"), WAIT.format("first"))
    assert list(seconds) == ["01_x", "02_y"] and (dict(os.environ), os.getcwd()) == before
    first = nbformat.read(tmp_path / "notebooks" / "01_x.ipynb", 4)
    assert [o["text"] for c in first.cells for o in c.get("outputs", ())] == ["3\n"]
    assert ended(tmp_path, "first", "second")


def test_a_failing_notebook_ends_the_one_beside_it(side_by_side, tmp_path):
    with pytest.raises(LprnetError, match="notebook 02_y, cell [0-9]: ZeroDivisionError"):
        side_by_side("time.sleep(600)", WAIT.format("first"), "1 / 0")
    assert ended(tmp_path, "first", "second")


def test_an_interrupt_ends_both(side_by_side, tmp_path, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist's workers ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt():
        while not all((tmp_path / name).exists() for name in ("first", "second")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side("time.sleep(600)", "time.sleep(600)")
    assert ended(tmp_path, "first", "second")


def test_unknown_notebooks_profiles_and_names_are_refused(notebooks):
    notebooks("01_x")
    with pytest.raises(ParameterError, match="no notebook '02_y'. There are: 01_x"):
        r.notebook_path("02_y")
    with pytest.raises(ParameterError, match="quick, full"):
        r.make_report("huge")
    with pytest.raises(ParameterError, match="CHIPS|BM9"):
        r.make_report("quick", CHIPS="BM9")
    for name in ("../up", "", "a/b", ".hidden", "x" * 90):
        with pytest.raises(ParameterError, match="report name"):
            r.report_folder(name)


def test_strategies_are_cut_to_the_images_there_are_and_that_is_told_first(
    notebooks, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(inputs, "_said", set())
    notebooks("01_x", "1/0")
    folder = write_plates(generate_plates(70, 3, workers=0), tmp_path / "plates").parent
    given = {"DATA": str(folder), "WEIGHTS": "generated", "IMAGES": 20}
    with pytest.raises(LprnetError, match="ZeroDivisionError"):
        r.make_report("quick", notebooks=("01_x",), STRATEGIES="kl-20,mse", **given)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert told == ["note: strategy mse calibrates on 50 images instead of 100: there are no more."]


def test_plates_without_labels_are_refused_before_anything_runs(notebooks, tmp_path):
    notebooks("01_x", "1/0")
    labels = write_plates(generate_plates(30, 3, workers=0), tmp_path / "plates")
    labels.unlink()
    for number, path in enumerate(labels.parent.iterdir()):
        path.rename(path.with_name(f"{number:04d}.png"))
    with pytest.raises(DataError, match="plates has no labels"):
        r.make_report("quick", notebooks=("01_x",), DATA=str(labels.parent), WEIGHTS="generated")
    assert not (tmp_path / "reports").exists()


def test_paths_are_from_where_the_user_stands_then_from_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "plates").mkdir()
    monkeypatch.chdir(tmp_path)
    given = {"DATA": "plates", "STRATEGIES": "kl"}
    assert r.profile_values("quick", given)["DATA"] == str(tmp_path / "plates")
    assert check(DATA="plates").data == str(tmp_path / "plates")
    # A notebook runs in the checkout, and what lies there keeps its short name on every machine.
    monkeypatch.chdir(r.repository() / "notebooks")
    for written in ("data/models", "../data/models"):
        assert r.profile_values("quick", {"DATA": written})["DATA"] == "data/models"
        assert check(DATA=written).data == str(r.repository() / "data" / "models")
    with pytest.raises(ParameterError, match=f"'nowhere' is not known.*{r.repository()}"):
        check(DATA="nowhere")


def test_a_report_of_tpu_nntc_takes_that_toolchains_strategies(
    notebooks, tmp_path, monkeypatch, capsys
):
    """What is checked before anything runs is checked where the notebooks look, too."""
    notebooks("01_x", "1/0")
    folder = write_plates(generate_plates(70, 3, workers=0), tmp_path / "plates").parent
    given = {"DATA": str(folder), "WEIGHTS": "generated", "IMAGES": 20, "TOOLCHAIN": "nntc"}
    few = tmp_path / "few.json"
    few.write_text(json.dumps({"name": "few", "toolchain": "nntc", "iterations": 20}))
    with pytest.raises(LprnetError, match="ZeroDivisionError"):
        r.make_report("quick", notebooks=("01_x",), STRATEGIES=str(few), **given)
    monkeypatch.setattr(inputs, "_said", set())
    with pytest.raises(LprnetError, match="ZeroDivisionError"):
        r.make_report("quick", notebooks=("01_x",), STRATEGIES="tutorial", **given)
    assert "tutorial calibrates on 50 images instead of 450" in capsys.readouterr().err


def test_the_manifest_says_where_a_report_came_from(tmp_path):
    (tmp_path / "bmodels").mkdir()
    (tmp_path / "bmodels" / "a.json").write_text('{"sha256": "00"}')
    (tmp_path / "metrics.json").write_text(
        json.dumps(
            {"dataset": {"name": "n", "images": 1, "digest": "d"}, "data": {"source": "published"}}
        )
    )
    facts = r.manifest("quick", {"IMAGES": 100}, tmp_path)
    assert facts["data"] == {"name": "n", "images": 1, "digest": "d", "source": "published"}
    assert facts["bmodels"] == {"a": "00"} and facts["parameters"] == {"IMAGES": 100}
    assert facts["versions"]["torch"].startswith("2.13.0") and len(facts["metrics_sha256"]) == 64


def contents(folder):
    """All bytes below a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_report_takes_its_place_whole_and_only_that_of_one_with_the_same_parameters(
    notebooks, tmp_path
):
    sample, place = tmp_path / "sample", tmp_path / "reports" / "mine"
    build(sample)
    (sample / "manifest.json").unlink()
    folder = write_plates(generate_plates(70, 3, workers=0), tmp_path / "plates").parent
    given = {"DATA": str(folder), "WEIGHTS": "generated", "IMAGES": 20, "STRATEGIES": "kl-20"}
    write = f"import shutil; shutil.copytree({str(sample)!r}, OUTPUT_DIR, dirs_exist_ok=True)"
    seen = f"import os; print(os.path.exists({str(place)!r}), OUTPUT_DIR)"

    def make(**more):
        return r.make_report("quick", name="mine", notebooks=("01_x",), **{**given, **more})

    notebooks("01_x", write, "open(OUTPUT_DIR + '/once.txt', 'w').close()", seen)
    assert make() == place / "index.html" and (place / "once.txt").exists()
    page = (place / "notebooks" / "01_x.ipynb").read_text("utf8")
    assert f"False {place}" in page and ".building" not in page
    assert not any((place.parent / ".building").iterdir())
    manifest = json.loads((place / "manifest.json").read_text("utf8"))
    assert sorted(manifest["files"]) == sorted(contents(place))

    (place / "notes.md").write_text("mine")
    before = contents(place)
    with pytest.raises(ParameterError, match="chips BM1684X,BM1684, not BM1688.*--name"):
        make(CHIPS="BM1688")
    notebooks("01_x", write, "1/0")
    with pytest.raises(LprnetError, match=r"ZeroDivisionError.*\n.*\.building/mine/notebooks/01_x"):
        make()
    assert contents(place) == before  # a reader sees the finished one until the next is finished
    notebooks("01_x", write, seen)
    make()
    assert "True " in (place / "notebooks" / "01_x.ipynb").read_text("utf8")
    assert (place / "notes.md").read_text() == "mine" and not (place / "once.txt").exists()


def test_a_folder_that_is_no_report_is_left_alone(notebooks, tmp_path):
    notebooks("01_x", "1/0")
    place = tmp_path / "reports" / "quick"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    given = {"DATA": "generated", "WEIGHTS": "generated", "IMAGES": 8, "STRATEGIES": "kl-20"}
    with pytest.raises(ParameterError, match="no finished report.*--name"):
        r.make_report("quick", notebooks=("01_x",), **given)
    assert contents(place) == {"thesis.txt": b"mine"}
