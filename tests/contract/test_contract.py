from __future__ import annotations

import shutil
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from lprnet_nb import cli
from lprnet_nb.errors import ParameterError
from lprnet_nb.proof import contract
from lprnet_nb.toolchain.bmodel import BModel

COMMON = [
    "describes itself",
    "names shapes dtypes",
    "process",
    "logits fp32",
    "logits int8",
    "batch 4 and padding",
    "warns of padding",
    "refuses bad calls",
    "refuses bad files",
    "closes",
]


@pytest.fixture(scope="module")
def kit(compiler):
    return contract.make_kit("BM1688")


def failures(results):
    return [f"{result.check}: {result.detail}" for result in results if not result.passed]


def test_the_kit_can_be_carried_elsewhere(kit, tmp_path):
    carried = shutil.copytree(kit, tmp_path / "kit")
    shutil.rmtree(carried / "fp32_4b" / "graph")
    assert np.load(carried / "inputs.npy").shape == (5, 3, 24, 94)
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
    assert results[-1].detail.startswith("2 devices; fp32_1b: 5 images, largest difference 0")


def test_a_backend_that_falls_or_errs_fails_these_checks_and_no_others(kit, standin):
    asked = ["logits fp32", "logits int8", "batch 4 and padding", "closes"]
    results = contract.run_contract("device", kit=kit, sail_module="standin_falling", only=asked)
    assert [result.check for result in results] == asked
    assert [result.passed for result in results] == [True, False, False, True]
    assert "fell with SIGABRT" in results[1].detail
    assert "differ from the simulator's by up to 1" in results[2].detail


def test_a_kit_is_saved_and_one_check_run_on_the_command_line(kit, tmp_path):
    target = tmp_path / "kit"
    saved = CliRunner().invoke(cli.app, ["contract", "--save-kit", str(target)])
    assert saved.exit_code == 0 and saved.output.strip() == str(target)
    assert sorted(each.name for each in target.iterdir()) == sorted(
        each.name for each in kit.iterdir()
    )
    again = CliRunner().invoke(cli.app, ["contract", "--save-kit", str(target)])
    assert isinstance(again.exception, ParameterError) and "there already" in str(again.exception)
    run = CliRunner().invoke(
        cli.app,
        ["contract", "--backend", "emulator", "--kit", str(target), "--only", "logits int8"],
    )
    assert run.output.splitlines() == [
        "ok   logits int8: int8_1b: 5 images, largest difference 0",
        "emulator: 1 passed, 0 failed",
    ]


def test_the_largest_batch_is_combined_first(kit, tmp_path, monkeypatch):
    """The other way round, batch 1 of a BM1684X BModel gives wrong logits."""
    asked, settled = [], []
    tool = types.SimpleNamespace(run=lambda command, **_: asked.append(command))
    monkeypatch.setattr(contract, "compiler", lambda: tool)
    monkeypatch.setattr(contract, "without_time", settled.append)
    one, four = (BModel.load(kit / name) for name in ("fp32_1b", "fp32_4b"))
    for number, models in enumerate(([one, four], [four, one])):
        contract.combine_stages(models, tmp_path / str(number))
        assert asked[-1][1:4] == ["--combine", four.path, one.path]
        assert settled[-1] == tmp_path / str(number) / "lprnet.bmodel" == asked[-1][-1]


def test_without_sail_a_check_says_what_is_missing(kit):
    [result] = contract.run_contract("device", kit=kit, only=["logits fp32"])
    assert not result.passed and "needs sophon.sail" in result.detail


def test_refuses_what_has_no_contract(tmp_path):
    with pytest.raises(ParameterError, match="'torch' has no contract"):
        contract.run_contract("torch", kit=tmp_path)
    with pytest.raises(ParameterError, match="is no contract kit"):
        contract.run_contract("simulator", kit=tmp_path)
    (tmp_path / "inputs.npy").touch()
    with pytest.raises(ParameterError, match="unknown check speed. There are: describes itself"):
        contract.run_contract("simulator", kit=tmp_path, only=["speed"])
