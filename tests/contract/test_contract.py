from __future__ import annotations

import shutil

import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.runtime import contract

COMMON = ["describes itself", "names shapes dtypes", "process", "logits fp32", "logits int8",
          "batch 4 and padding", "warns of padding", "refuses bad calls", "refuses bad files",
          "closes"]


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
    assert [result.check for result in results] == [
        *COMMON[:6], "combined stages", *COMMON[6:]]


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
