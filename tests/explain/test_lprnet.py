"""LPRNet's own story (notebook 03) is found by measuring, told nothing: layer 13, and the fork."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate.fidelity import sqnr_db
from lprnet_nb.explain.bmodel import explain_bmodel, explained
from lprnet_nb.model.lprnet.roles import roles_of_layers
from lprnet_nb.model.trace import trace_model
from lprnet_nb.proof.exactness import Case, compiled
from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.toolchain.compile import compile_bmodel, top_graph

CHIP = "BM1684X"


@pytest.fixture(scope="module")
def models(compiler, weights, published):
    """INT8 in the published and in the forked form, and fp32."""
    calibration = published.images[:100]
    int8, forked = (
        compiled(Case(name), CHIP, weights, calibration) for name in ("kl", "kl-forked")
    )
    return int8, forked, compile_bmodel(trace_model(weights, 1, "image"), CHIP, "fp32")


@pytest.fixture(scope="module")
def plates(published):
    return published.take(np.arange(8) * 125)


@pytest.fixture(scope="module")
def found(models, plates):
    return explained(models[0], models[2], plates, top=2)


def test_layer_13_is_found(found, weights):
    layers = top_graph(trace_model(weights, 1, "image")).layers
    worst = found["layers"][0]
    assert worst["layer"] == roles_of_layers(layers)["block11"][-1]
    assert worst["share"] > 0.5
    reason = worst["reasons"][0]
    assert reason["kind"] == "dropped channels set the scale"
    assert reason["kept"] == 64 and reason["levels"] < 16


def test_the_fork_is_found_and_brings_what_was_said(found, models, plates):
    cures = {cure["kind"]: cure for cure in found["layers"][0]["cures"]}
    assert cures["fork"]["gain_db"] > cures["threshold"]["gain_db"]
    inputs = preprocess(plates.images)
    exact, forked = (Emulator(models[k].exported).run(inputs) for k in (2, 1))
    assert sqnr_db(exact, forked) == pytest.approx(cures["fork"]["snr_db"], abs=1.5)


def test_the_command_reads_a_folder_with_labels(models, published):
    from lprnet_nb.datasets import fetch

    said = explain_bmodel(models[0].folder, [fetch.images_folder()], images=4, top=0)
    assert said["images"] == 4 and said["strategy"] == "kl"
    assert 0 <= said["int8"]["right"] <= said["float"]["right"] <= 4
    assert json.loads(json.dumps(said)) == said


def test_what_cannot_be_explained_is_said(models):
    with pytest.raises(ParameterError, match="fp32 .*explain in INT8"):
        explain_bmodel(models[2].folder, [])
    with pytest.raises(ParameterError, match="the float side of .* is one of fp32"):
        explain_bmodel(models[0].folder, [], float_model=models[1].folder)
