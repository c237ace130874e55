from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from lprnet_nb import cli
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.proof import contract
from lprnet_nb.proof import kit as kits
from lprnet_nb.runtime.inference import infer_plates
from lprnet_nb.toolchain.bmodel import BModel

COMMON = [
    "describes itself",
    "names shapes dtypes",
    "process",
    "logits fp32",
    "logits int8",
    "larger batch and padding",
    "warns of padding",
    "refuses bad calls",
    "refuses bad files",
    "closes",
]


def failures(results):
    return [f"{result.check}: {result.detail}" for result in results if not result.passed]


def test_the_kit_can_be_carried_elsewhere(kit, tmp_path):
    carried = shutil.copytree(kit, tmp_path / "kit")
    assert np.load(carried / "plates.npy").shape == (5, 24, 94, 3)
    results = contract.run_contract("simulator", kit=carried)
    assert failures(results) == []
    assert [result.check for result in results] == [*COMMON[:6], "combined stages", *COMMON[6:]]


def test_the_emulator_keeps_the_contract(kit):
    results = contract.run_contract("emulator", kit=kit)
    assert failures(results) == []
    assert [result.check for result in results] == COMMON


def test_the_stand_in_for_sail_keeps_the_contract(kit, standin, monkeypatch):
    monkeypatch.setenv("STANDIN_DEVICES", "2")
    results = contract.run_contract("device", kit=kit, sail_module=standin)
    assert failures(results) == []
    assert [result.check for result in results][-2:] == ["device side tensors", "device numbers"]
    assert "ms an image in the runtime" in results[-2].detail
    assert results[-1].detail.startswith("2 devices; fp32_1b: 2 images, largest difference 0")


def test_a_backend_that_falls_or_errs_fails_these_checks_and_no_others(kit, standin):
    asked = ["logits fp32", "logits int8", "larger batch and padding", "closes"]
    results = contract.run_contract("device", kit=kit, sail_module="standin_falling", only=asked)
    assert [result.check for result in results] == asked
    assert [result.passed for result in results] == [True, False, False, True]
    assert "fell with SIGABRT" in results[1].detail
    assert "differ from the simulator's by up to 1" in results[2].detail


def test_one_check_is_run_on_the_command_line(kit):
    run = CliRunner().invoke(
        cli.app,
        ["contract", "--backend", "emulator", "--kit", str(kit), "--only", "logits int8"],
    )
    assert run.output.splitlines() == [
        "ok   logits int8: int8_1b: 2 images, largest difference 0",
        "emulator: 1 passed, 0 failed",
    ]


def test_a_process_of_checks_that_takes_too_long_is_ended(kit):
    [result] = contract.run_contract("emulator", kit=kit, only=["closes"], timeout=0.01)
    assert not result.passed and "did not end within 0.01 s" in result.detail


def test_the_largest_batch_is_combined_first(kit, tmp_path, monkeypatch):
    """The other way round, batch 1 of a BM1684X BModel gives wrong logits."""
    asked, settled = [], []
    tool = types.SimpleNamespace(run=lambda command, **_: asked.append(command))
    monkeypatch.setattr(kits, "compiler", lambda: tool)
    monkeypatch.setattr(kits, "without_time", settled.append)
    one, four = (BModel.load(kit / "models" / f"{name}.bmodel") for name in ("fp32_1b", "fp32_4b"))
    for number, models in enumerate(([one, four], [four, one])):
        kits.combine_stages(models, tmp_path / str(number))
        assert asked[-1][1:4] == ["--combine", four.path, one.path]
        assert settled[-1] == tmp_path / str(number) / "lprnet.bmodel" == asked[-1][-1]


def test_the_process_of_checks_starts_without_torch():
    """A machine with a device may well be without it, and it takes seconds."""
    code = "import sys; sys.modules['torch'] = None; import lprnet_nb.proof.contract"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_sail_a_check_says_what_is_missing(kit):
    [result] = contract.run_contract("device", kit=kit, only=["logits fp32"])
    assert not result.passed and "needs sophon.sail" in result.detail


def test_refuses_what_has_no_contract(kit, tmp_path):
    with pytest.raises(ParameterError, match="'torch' has no contract"):
        contract.run_contract("torch", kit=tmp_path)
    with pytest.raises(DataError, match="kit.json cannot be read: No such file"):
        contract.run_contract("simulator", kit=tmp_path)
    with pytest.raises(ParameterError, match="unknown check speed. There are: describes itself"):
        contract.run_contract("simulator", kit=kit, only=["speed"])


def test_what_the_runtime_prints_is_not_among_our_output(standin, compiler):
    code = (
        "import json; from lprnet_nb.runtime.device import load_sail;"
        f"sail = load_sail({standin!r}); sail.get_available_tpu_num(); print(json.dumps([1]));"
        f"load_sail({standin!r}); sail.get_available_tpu_num(); print(json.dumps([2]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[1]\n[2]\n"
    assert done.stderr.count("a line on stdout") == 2


def test_a_device_is_always_run_again(kit, standin, tmp_path, monkeypatch):
    model = BModel.load(kit / "models" / "int8_1b.bmodel")
    noise = PlateImages("noise", np.load(kit / "plates.npy")[:1], ("0.png",))
    options = {"sail_module": standin, "trust": True}
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path))
    first, again = (infer_plates(model, noise, "device", **options) for _ in range(2))
    assert np.array_equal(first.logits, again.logits) and first.seconds != again.seconds
    assert set(first.description["runtime"]) >= {"libbmrt.so.1.0"}
    assert {"driver", "board"} <= set(first.description)


def test_the_stand_in_is_as_unforgiving_as_sail(kit, standin):
    """As the real sail 3.10.7 was seen to behave on the same libraries."""
    code = f"""
import numpy as np, {standin} as sail
model = {str(kit / "models" / "fp32_1b.bmodel")!r}
engine = sail.Engine(model, 0, sail.IOMode.SYSIO)
[name] = engine.get_input_names("lprnet")
array = np.asfortranarray(np.arange(6768, dtype=np.float32).reshape(1, 3, 24, 94))
engine.process("lprnet", {{name: array}})
print(array[0, 0, 0, :2].tolist())
try:
    engine.process("lprnet", {{name: np.zeros((3, 24, 94), np.float32)}})
except sail.SailEngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"[0.0, 72.0]", "bad input"} <= set(done.stdout.splitlines())


def test_doctor_says_device_only_where_sail_finds_one(box_environment):
    for devices, ok, found in [
        ("2", True, "sophon.sail stand-in for 3.10.7 finds 2 devices"),
        ("0", False, "sophon.sail is here, but finds no device; is the driver loaded?"),
    ]:
        code = "from lprnet_nb.doctor import examine; import json; print(json.dumps(examine()))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | box_environment | {"STANDIN_DEVICES": devices},
            capture_output=True,
            text=True,
            check=True,
        )
        rows = {row["what"]: row for row in json.loads(done.stdout)["checks"]}
        assert (rows["backend device"]["ok"], rows["backend device"]["found"]) == (ok, found)


def test_infer_on_a_device_prints_json_alone(kit, box_environment, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(kit / "plates" / "00000.png", tmp_path / "one" / "皖A.png")
    model = kit / "models" / "int8_1b.bmodel"
    command = ["infer", str(model), str(tmp_path / "one"), "--backend", "device", "--trust"]
    done = subprocess.run(
        [sys.executable, "-c", "from lprnet_nb.cli import main; main()", *command],
        env=os.environ | box_environment | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(json.loads(done.stdout)) == ["皖A.png"]
