"""A kit's run.py, as a box runs it: Python 3.8, numpy, OpenCV, and sail's stand-in."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import Alphabet
from lprnet_nb.decode import decode
from lprnet_nb.decode.top import top
from lprnet_nb.errors import DataError
from lprnet_nb.measure.box import logits_digest, measured_logits, read_results
from lprnet_nb.proof.kit import kit_for, read_kit
from lprnet_nb.toolchain.releases import PINNED, release_named

QUICK = ("--only", "int8_1b", "--warm-up", "1", "--repetitions", "3")


@pytest.fixture
def carried(kit, tmp_path) -> Path:
    """The kit, copied to another place."""
    return Path(shutil.copytree(kit, tmp_path / "carried"))


@pytest.fixture
def run(box_python, box_environment, carried):
    def run(*arguments, folder=carried, code=0, limit=None, **environment):
        command = [str(box_python), str(folder / "run.py"), *map(str, arguments)]
        if limit:
            command = ["bash", "-c", f'ulimit -f {limit} && exec "$@"', "-", *command]
        done = subprocess.run(
            command, capture_output=True, env=box_environment | environment, cwd=folder.parent
        )
        assert done.returncode == code, (done.stdout + done.stderr).decode("utf8")
        return done.stdout.decode("utf8"), done.stderr.decode("utf8")

    return run


def expected(folder, name):
    return np.load(folder / "expected" / f"{name}.npy")


def test_checks_plates_and_times_on_a_boxs_python(run, carried):
    printed, errors = run(*QUICK)
    assert errors == "" and "stand-in runtime" not in printed
    assert printed.splitlines()[0].endswith("for BM1688, 4 models, 5 plates")
    assert re.search(r"^opencv int8_1b +\| 5 of 5 ", printed, re.MULTILINE)
    results = read_results(carried / "results.json")
    assert [(check.check, check.model, check.passed) for check in results.checks] == [
        (name, "int8_1b", True) for name in ("describes", "process", "tensors", "devices")
    ]
    assert results.box.python.startswith("3.8.") and results.box.chip == "BM1688"
    assert len(results.box.runtime["libbmrt.so.1.0"]) == 64 and results.box.opencv
    assert results.settings == {"warm_up": 1, "repetitions": 3, "timeout": 600}
    [model] = results.models
    found, logits = model.programs["plates"], expected(carried, "int8_1b")
    assert found.digests == [logits_digest(row) for row in logits] and found.different == {}
    assert set(found.times_ms) == {"decode", "preprocess", "inference", "postprocess", "runtime"}
    spread = found.times_ms["inference"]
    assert spread.calls == 3 and spread.least <= spread.median <= spread.most
    assert found.times_ms["runtime"].median > found.times_ms["postprocess"].median
    kit = read_kit(carried)
    alphabet = Alphabet(tuple(kit.classes), kit.blank)
    assert found.readings == list(decode(logits, alphabet).texts) and any(found.readings)
    assert np.array_equal(measured_logits(model, logits), logits)
    with pytest.raises(DataError, match="plate 1 was compared with other logits"):
        measured_logits(model, logits + np.array([0, 1, 0, 0, 0], np.float32)[:, None, None])


@pytest.mark.slow
def test_without_opencv_what_falls_has_failed_and_the_rest_goes_on(run, carried, tmp_path):
    """The stand-in takes its process down on INT8, and adds 1 to batches of four."""
    hidden = tmp_path / "site" / "cv2.py"
    hidden.write_text("raise ImportError('hidden')\n", "utf8")
    printed, _ = run(
        "--sail-module", "standin_falling", "--only", "int8_1b,fp32_4b", *QUICK[2:], code=1
    )
    results = read_results(carried / "results.json")
    passed = {(check.check, check.model): check.passed for check in results.checks}
    assert passed == {
        ("describes", "fp32_4b"): True,
        ("process", "fp32_4b"): False,
        ("tensors", "fp32_4b"): True,
        ("padding", "fp32_4b"): False,
        ("devices", "fp32_4b"): False,
        ("describes", "int8_1b"): True,
        ("process", "int8_1b"): False,
        ("tensors", "int8_1b"): False,
        ("devices", "int8_1b"): False,
    }
    fallen = next(
        check for check in results.checks if check.model == "int8_1b" and not check.passed
    )
    assert "fell with SIGABRT" in fallen.detail
    by_id = {model.id: model.programs["plates"] for model in results.models}
    assert by_id["int8_1b"].digests is None and "SIGABRT" in by_id["int8_1b"].detail
    four = by_id["fp32_4b"]
    assert sorted(four.different) == list("01234")
    assert four.largest_difference == pytest.approx(1, abs=1e-5)
    assert "decode" not in four.times_ms and results.box.opencv is None
    model = next(model for model in results.models if model.id == "fp32_4b")
    logits = expected(carried, "fp32_4b")
    assert np.array_equal(measured_logits(model, logits), logits + 1)
    assert "3 of 11 jobs passed" in printed


def test_a_stopped_run_goes_on(run, carried, box_python, box_environment):
    command = [str(box_python), str(carried / "run.py"), *QUICK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=box_environment, text=True, encoding="utf8"
    ) as process:
        for line in process.stdout:
            if line.startswith("2/5 ok"):
                process.send_signal(signal.SIGKILL)
    part = carried / "results.part"
    before = part.read_bytes()
    assert before.count(b"\n") >= 3 and not (carried / "results.json").exists()
    part.write_bytes(before + b'{"job": ["check", "tens')  # and a line that was cut short
    printed, _ = run(*QUICK)
    kept = before.count(b"\n") - 1
    assert f"{kept} of 5 jobs were finished before" in printed
    assert f"\n{kept + 1}/5 ok" in printed and "\n1/5 " not in printed
    assert part.read_bytes().startswith(before)
    assert all(json.loads(line) for line in part.read_bytes().splitlines())  # none is half of two
    assert len(read_results(carried / "results.json").checks) == 4


@pytest.mark.slow
def test_a_finished_run_counts_for_its_own_connection_alone(run, carried):
    run(*QUICK)
    first = read_results(carried / "results.json")
    printed, _ = run(*QUICK, "--session", "a")
    assert "\n1/5 ok" in printed
    again = read_results(carried / "results.json")
    assert (
        again.models[0].programs["plates"].times_ms != first.models[0].programs["plates"].times_ms
    )
    # Cut off between the end of the run and the fetching of its results: nothing is done again.
    printed, _ = run(*QUICK, "--session", "a")
    assert "5 of 5 jobs were finished before" in printed and "/5 ok" not in printed
    assert read_results(carried / "results.json") == again
    # Another runtime, another driver: nothing of before counts.
    printed, _ = run(*QUICK, "--session", "a", STANDIN_DEVICES="2")
    assert "\n1/5 ok" in printed and "devices int8_1b: 2 devices" in printed


@pytest.mark.slow
def test_a_job_that_hangs_has_failed(run, carried, tmp_path):
    (tmp_path / "site" / "standin_slow.py").write_text(
        "import time\nfrom standin_sail import *\nfrom standin_sail import Engine as E\n"
        "class Engine(E):\n    def get_graph_names(self):\n        time.sleep(999)\n",
        "utf8",
    )
    printed, _ = run(
        "--sail-module", "standin_slow", "--timeout", 60, "--only", "int8_1b", *QUICK[2:], code=1
    )
    assert "FAIL describes int8_1b: the process did not end within 60 s" in printed
    assert "4 of 5 jobs passed" in printed


def test_what_cannot_work_is_said_before_anything_runs(run, carried, tmp_path, box_environment):
    for arguments, environment, said in [
        ((), {"STANDIN_TARGET": "BM1684X"}, "is for BM1688, and this machine has a BM1684X. Make"),
        ((), {"STANDIN_DEVICES": "0"}, "sail finds no device"),
        (("--sail-module", "nowhere.sail"), {}, "nowhere.sail cannot be imported by Python 3.8."),
        (("--sail-module", "json"), {}, "is not Sophgo's sail: it has no Engine"),
        (("--only", "int8_9b"), {}, "the kit has no model int8_9b. It has: fp32_1b, fp32_4b"),
        (("--repetitions", "0"), {}, "must be above 0"),
        (("--output", "/nowhere/r.json"), {}, "cannot write /nowhere/r.part: No such file"),
    ]:
        printed, errors = run(*arguments, code=2, **environment)
        assert errors.startswith("run.py: ") and said in errors, errors
        assert "/5 " not in printed
    other = tmp_path / "other" / "sophon"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "sail.cpython-310-aarch64-linux-gnu.so").touch()
    _, errors = run(code=2, PYTHONPATH=str(other.parent))
    assert "sophon.sail is here for Python 3.10, and this is Python 3.8." in errors
    model = carried / "models" / "int8_1b.bmodel"
    model.write_bytes(model.read_bytes()[:-1] + b"\0\0")
    assert "int8_1b.bmodel was changed on the way" in run(code=2)[1]
    model.unlink()
    assert "int8_1b.bmodel is missing from the kit" in run(code=2)[1]
    (carried / "kit.json").write_text("{}", "utf8")
    assert "is no kit: 'files'" in run(code=2)[1]
    assert not (carried / "results.json").exists()


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_finished(run, carried):
    """The logits that differ do not fit: five plates of 68 x 18 floats, in 30 kB for a file."""
    wanted = ("--sail-module", "standin_falling", "--only", "fp32_4b", *QUICK[2:])
    _, errors = run(*wanted, code=2, limit=30)
    assert "is the disk full? Finished jobs are kept" in errors
    assert not (carried / "results.json").exists()
    printed, _ = run(*wanted, code=1)
    assert "2 of 6 jobs were finished before" in printed
    assert len(read_results(carried / "results.json").models[0].programs["plates"].different) == 5


@pytest.mark.slow
def test_the_whole_kit_and_bmcv(run, carried):
    """`pytest -m slow tests/contract/test_kit_run.py`, twenty minutes on two cores."""
    run("--sail-module", "standin_bmcv", "--warm-up", 0, "--repetitions", 5)
    results = read_results(carried / "results.json")
    assert all(check.passed for check in results.checks)
    checked = {(check.check, check.model) for check in results.checks}
    assert {("stages", "fp32_combined"), ("padding", "fp32_4b")} <= checked
    for model in results.models:
        found = model.programs["plates"]
        assert found.different == {}
        if model.id == "fp32_combined":
            continue
        other = model.programs["bmcv"]
        assert other.readings == found.readings and other.largest_difference < 1e-3
        assert set(other.times_ms) == {"decode", "preprocess", "inference", "postprocess"}


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["BM1684", "BM1684X", "BM1688", "CV186X"])
def test_twenty_plates_with_numpy_alone(chip, run, compiler, tmp_path):
    (tmp_path / "site" / "cv2.py").write_text("raise ImportError('hidden')\n", "utf8")
    folder = kit_for(
        tmp_path / "kit",
        CHIPS=chip,
        PRECISIONS="fp32,int8",
        BATCHES="1,4",
        STRATEGIES="kl-20",
        IMAGES=20,
        DATA="generated",
    )
    name = "CV186AH" if chip == "CV186X" else chip
    library = compiler.library_folder / release_named(PINNED).simulators[chip]
    run(
        *("--warm-up", 0, "--repetitions", 2),
        folder=folder,
        STANDIN_TARGET=name,
        TPUKERNEL_FIRMWARE_PATH=str(library),
    )
    results, kit = read_results(folder / "results.json"), read_kit(folder)
    assert results.box.chip == chip and all(check.passed for check in results.checks)
    assert len(results.models) == len(kit.models) == (4 if chip == "BM1684" else 5)
    for model in results.models:
        assert model.programs["plates"].different == {}
    read, labels = model.programs["plates"].readings, [plate.label for plate in kit.plates]
    assert sum(a == b for a, b in zip(read, labels)) >= 10


PYTHON = """
import torch
from torch import nn

class Recognizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, (8, 3)), nn.LeakyReLU())

    def forward(self, x):
        return self.layers(x).squeeze(2).permute(2, 0, 1)

def network():
    torch.manual_seed(0)
    return Recognizer().eval()
"""
TOML = """
[input]
height = 8
width = 12
order = "rgb"
mean = [90.0, 127.5, 150.0]
scale = 0.01

[output]
kind = "{kind}"
layout = "tnc"
classes = ["Seoul", "1", "2", "3", "4", "-"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "logits"])
def test_a_kit_of_ones_own_network_reads_as_here(kind, run, box_environment, tmp_path):
    """RGB, a mean a plane, time first, class names of several characters; no C++ program."""
    (tmp_path / "own.py").write_text(PYTHON, "utf8")
    (tmp_path / "own.toml").write_text(TOML.format(kind=kind), "utf8")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), noise)
    (folder / "labels.csv").write_text("".join(f"{n}.png,Seoul12\n" for n in range(6)), "utf8")
    made = kit_for(
        tmp_path / "kit",
        backend="emulator",
        CHIPS="BM1688",
        NETWORK=str(tmp_path / "own.py"),
        PRECISIONS="int8",
        BATCHES="4",
        STRATEGIES="max",
        IMAGES=0,
        DATA=str(folder),
    )
    assert not (made / "cpp").exists()
    run("--warm-up", 0, "--repetitions", 1, folder=made)
    results, kit = read_results(made / "results.json"), read_kit(made)
    assert all(check.passed for check in results.checks)
    [model] = results.models
    assert model.programs["plates"].different == {}
    alphabet = Alphabet(tuple(kit.classes), kit.blank)
    here = (decode if kind == "ctc" else top)(expected(made, model.id), alphabet).texts
    assert model.programs["plates"].readings == here and any("Seoul" in text for text in here)
