"""The sophon-demo sample's form of LPRNet: the published function, in other layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from lprnet_nb.datasets.images import PlateImages, preprocess
from lprnet_nb.model.lprnet.layers import PublishedLPRNet
from lprnet_nb.model.lprnet.sample import SampleLPRNet
from lprnet_nb.model.onnx_files import open_session, run_session
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.study import published, sample
from lprnet_nb.toolchain.strategies import check_generates


@pytest.mark.parametrize("batch", [1, 4])
def test_the_sample_computes_the_published_function_in_layers_of_its_own(batch):
    weights = load_own_weights()
    images = np.random.default_rng(0).integers(0, 256, (batch, 24, 94, 3)).astype(np.uint8)
    inputs = preprocess(images)
    networks = [kind(weights.classes) for kind in (PublishedLPRNet, SampleLPRNet)]
    for network in networks:
        network.load_state_dict(weights.state)
    with torch.no_grad():
        theirs, ours = (network.eval()(torch.from_numpy(inputs)).numpy() for network in networks)
    np.testing.assert_array_equal(ours, theirs)

    traced = sample.sample_onnx(weights, batch)
    assert (traced.batch, traced.batch_mean) == (batch, "batch")
    np.testing.assert_allclose(run_session(open_session(traced.path), inputs), ours, atol=1e-4)
    graph = onnx.load(traced.path).graph
    kinds = [node.op_type for node in graph.node]
    counts = {kind: kinds.count(kind) for kind in ("MaxPool", "Transpose", "Pow", "Div")}
    assert counts == {"MaxPool": 5, "Transpose": 4, "Pow": 4, "Div": 4}
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    kept = [
        attribute.i
        for node in means
        for attribute in node.attribute
        if attribute.name == "keepdims"
    ]
    assert kept == [0] * 5


def test_images_are_read_in_the_samples_orders(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "images_folder", lambda: tmp_path)
    names = ("京B2.jpg", "沪C3.jpg", "皖A1.jpg")
    for name, content in zip(names, (b"b", b"a", b"c"), strict=True):
        (tmp_path / name).write_bytes(content)
    plates = PlateImages("few", np.zeros((3, 24, 94, 3), np.uint8), names)
    assert sample.by_number(plates).tolist() == [2, 0, 1]
    assert sample.by_md5(plates).tolist() == [1, 2, 0]  # 0cc1…, 4a8a…, 92eb…


def test_a_recipe_is_as_the_script_was_when_the_figure_appeared():
    asked = published._wanted("recipe", published.RECIPE)
    assert {(name, chip): (strategy.symmetric, by) for name, chip, strategy, by in asked} == {
        ("recipe", "BM1684X"): (False, "1.8.1"),
        ("symmetric", "BM1684X"): (True, "1.6"),
        ("recipe", "BM1684"): (True, "1.6"),
        ("recipe", "BM1688"): (True, "1.6"),
    }
    for _, _, strategy, by in asked:
        check_generates(by, strategy)
    assert {name for name, *_ in published._wanted("draws", published.RECIPE)} == {"draws"}
    row = published._row(
        "BM1684X",
        1,
        {"recipe": [0.9], "symmetric": [0.86], "traced": [0.9], "draws": [0.88]},
    )
    assert row["verdict"] == "within the spread"  # 0.867 lies between the two forms of the recipe
    assert (row["since"], row["asked"], row["draws"]) == ("2023-04", "0.7.1", [0.88])
