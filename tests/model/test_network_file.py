"""Networks of users: what is read of them, and what is said of those that cannot be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from networks import description, dynamic, model, save

from lprnet_nb.datasets.images import PlateImages, preprocess
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.lprnet import LPRNET
from lprnet_nb.model.network_file import network_weights, read_network, write_template
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.runtime.engine import open_engine


def plates(count: int, size: tuple[int, int] = (8, 12)) -> PlateImages:
    images = np.random.default_rng(5).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return PlateImages("noise", images, tuple(f"{k}.png" for k in range(count)))


def wanted(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Logits ``[N, 6, 10]`` of `model` by numpy alone."""
    weight = np.random.default_rng(seed).standard_normal((6, 3, 8, 3)).astype(np.float32)
    x = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
    return np.stack(
        [np.einsum("nchw,kchw->nk", x[..., t : t + 3], weight) for t in range(10)], axis=2
    )


def test_lprnets_own_facts_are_read_off_the_network():
    assert LPRNET.steps == 18 and LPRNET.output_shape(4, 68) == (4, 68, 18)
    assert LPRNET.digest == "" and LPRNET.backend == "torch"


@pytest.mark.parametrize("layout", ["nct", "ntc", "tnc", "nc1t"])
def test_every_layout_gives_the_same_logits(layout, tmp_path):
    network = read_network(save(tmp_path, model(layout=layout), description(layout=layout)))
    weights, some = network_weights(network), plates(5)
    assert network.steps == 10 and weights.classes == 6 and network.batches
    for batch in (1, 2):  # five images: the last call of two is padded
        logits = float_logits(weights, some, batch=batch)
        assert logits.shape == (5, 6, 10)
        assert np.allclose(logits, wanted(some.images), atol=1e-4)
        with open_engine(trace_model(weights, batch)) as engine:
            assert engine.backend == "onnxruntime"
            assert np.array_equal(engine.infer(preprocess(some.images, network.input)), logits)


def test_order_mean_and_scale_are_the_networks(tmp_path):
    toml = description(order="rgb", mean=[1, 2, 3], scale=[0.5, 0.25, 2])
    taken = read_network(save(tmp_path, model(), toml)).input
    images = np.zeros((1, 8, 12, 3), np.uint8)
    images[...] = (10, 20, 30)  # blue, green, red
    assert preprocess(images, taken)[0, :, 0, 0].tolist() == [14.5, 4.5, 14.0]
    toml = description(order="gray", mean=100, scale=0.1)
    taken = read_network(save(tmp_path, model(planes=1), toml, "gray")).input
    images[...] = 200
    assert preprocess(images, taken).shape == (1, 1, 8, 12)
    assert np.allclose(preprocess(images, taken), 10)


def test_the_key_is_of_the_network_and_of_all_that_is_said_of_it(tmp_path):
    def key(name, made, toml):
        network = read_network(save(tmp_path, made, toml, name))
        weights = network_weights(network)
        return network.digest, weights.digest, trace_model(weights).digest

    first = key("a", model(), description())
    renamed = key("b", model(), description())  # its name is a part where files are called by it
    assert renamed[:2] == first[:2] and renamed[2] != first[2]
    for name in ("a", "b"):
        network = read_network(tmp_path / f"{name}.onnx")
        assert trace_model(network_weights(network)).path.name == f"{name}.onnx"
        assert float_logits(network_weights(network), plates(1)).shape == (1, 6, 10)
    others = [
        key("c", model(seed=1), description()),
        key("d", model(), description(mean=127.0)),
        key("e", model(), description(classes="01235-")),
        key("f", model(), description(more="blank = 0\n")),
    ]
    assert len({*others, first}) == 5
    assert len({digest for digests in (first, *others) for digest in digests[:2]}) == 10


def test_a_batch_that_is_written_into_the_network_is_all_that_it_takes(tmp_path):
    network = read_network(save(tmp_path, model(fixed=True), description()))
    assert not network.batches
    with pytest.raises(ParameterError, match="batch=2: network small takes one image a call"):
        trace_model(network_weights(network), 2)


def test_class_names_of_several_characters_are_read_as_such(tmp_path):
    from lprnet_nb.decode import decode

    names = ["Seoul", "S", "1", "2", "", "-"]
    with pytest.raises(DataError, match="a class has no text"):
        read_network(save(tmp_path, model(), description(classes=names)))
    names[4] = "Busan"
    network = read_network(save(tmp_path, model(), description(classes=names)))
    assert network.alphabet is not None
    assert network.alphabet.encode("SSeoul1").tolist() == [1, 0, 2]
    logits = np.full((1, 6, 5), -9.0, np.float32)
    for step, name in enumerate((0, 5, 4, 2, 2)):
        logits[0, name, step] = 9.0
    assert decode(logits, network.alphabet).texts == ["SeoulBusan1"]
    assert decode(logits, network.alphabet, "beam").texts == ["SeoulBusan1"]


def test_logits_alone_need_neither_classes_nor_steps(tmp_path):
    toml = description(kind="logits", layout="nct", classes=None)
    network = read_network(save(tmp_path, model(), toml))
    assert network.interface.kind == "logits" and network_weights(network).classes == 6


BAD = {
    "another class count": (
        model(), description(classes="0123-"), "6 classes; the class list has 5",
    ),
    "the class axis elsewhere": (
        model(layout="ntc"), description(), r"10 classes.* has 6.*Axis 2 has 6",
    ),
    "another rank": (model(), description(layout="nc1t"), "names 4 axes"),
    "no such layout": (model(), description(layout="nc"), "does not say which axis"),
    "no batch axis": (model(batch=2), description(), None),
    "another size": (model(), description(height=9), r"\[N, 3, 9, 12\]"),
    "other planes": (model(planes=1), description(), "planes"),
    "mean of two planes": (model(), description(mean=[1, 2]), "give 3 finite numbers"),
    "no blank": (model(), description(classes="012345"), "blank is missing"),
    "impossible blank": (model(), description(more="blank = 6\n"), "outside 0 to 5"),
    "unknown word": (model(), description(more="colour = 1\n"), "output.colour"),
    "no TOML": (model(), "= 3", "is not TOML"),
    "no classes": (model(), description(classes=None), "which class is which"),
    "the workbook's name": (model(), description(), "Give the file another name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_said(case, tmp_path):
    made, toml, message = BAD[case]
    name = "LPRNet" if "workbook" in case else "small"
    if message is None:
        made.graph.input[0].type.tensor_type.shape.dim.pop(0)
        message = r"its input is \[3, 8, 12\]"
    path = save(tmp_path, made, toml, name)
    with pytest.raises(DataError, match=message) as raised:
        read_network(path)
    assert str(tmp_path) in str(raised.value)


def test_an_output_whose_shape_depends_on_the_picture_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"for one picture and \[1, 6, \d+\] for another.* fixed"):
        read_network(save(tmp_path, dynamic(), description()))


def test_free_height_and_width_become_the_tomls(tmp_path):
    path = save(tmp_path, model(height="h", width="w"), description())
    assert trace_model(network_weights(read_network(path))).input_shape == (1, 3, 8, 12)


def test_weights_outside_the_file_must_be_there(tmp_path):
    path = tmp_path / "small.onnx"
    path.with_suffix(".toml").write_text(description(), "utf8")
    onnx.save(model(), path, save_as_external_data=True, location="small.data", size_threshold=0)
    inside = read_network(path)
    (tmp_path / "small.data").rename(tmp_path / "gone.data")
    with pytest.raises(DataError, match="'small.data', which is not beside it"):
        read_network(path)
    plain = save(tmp_path, model(), description(), "plain")
    assert read_network(plain).digest == inside.digest


def test_two_outputs_foreign_operations_and_no_weights_are_refused(tmp_path):
    made = model()
    made.graph.output.append(onnx.helper.make_tensor_value_info("map", 1, None))
    with pytest.raises(DataError, match=r"2 outputs \(out, map\)"):
        read_network(save(tmp_path, made, description()))
    made = model()
    made.graph.node[0].domain = "mine"
    with pytest.raises(DataError, match="operation Conv, which is not one of ONNX's own"):
        read_network(save(tmp_path, made, description(), "foreign"))
    made = model(classes=3)  # its input's three planes, pooled; a shape is no weight
    del made.graph.initializer[0]
    made.graph.node[0].CopyFrom(
        onnx.helper.make_node("MaxPool", ["picture"], ["map"], "pool", kernel_shape=[8, 3])
    )
    with pytest.raises(DataError, match=r"bare.onnx has no weights.*Export the trained network"):
        read_network(save(tmp_path, made, description(classes="01-"), "bare"))
    path = tmp_path / "text.onnx"
    path.write_text("not a graph", "utf8")
    path.with_suffix(".toml").write_text(description(), "utf8")
    with pytest.raises(DataError, match="text.onnx"):
        read_network(path)


PYTHON = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, (8, 3)), nn.LeakyReLU(), nn.Flatten(2))
"""
WRONG = {
    "raises": (PYTHON.replace("torch.manual_seed(0)", "1 / 0"), r"ZeroDivisionError \(line 6\)"),
    "other weights": (PYTHON.replace("torch.manual_seed(0)", ""), "other weights each time"),
    "no function": ("x = 1\n", r"no function network\(\)"),
    "no module": ("def network():\n    return 3\n", "gives a int, not a torch.nn.Module"),
    "leaves": ("import sys\nsys.exit(0)\n", "ends the program"),
    "another size": (PYTHON.replace("(8, 3)", "(9, 3)"), "does not run on"),
    "weights of another network": (
        PYTHON.replace("    return ", "    made = ")
        + "    made.load_state_dict({'0.weight': torch.zeros(9, 3, 8, 3)})\n    return made\n",
        r"RuntimeError.*Missing key|RuntimeError.*state_dict|size mismatch",
    ),
}


def test_a_python_file_is_the_network_that_it_builds(tmp_path):
    (tmp_path / "own.py").write_text(PYTHON, "utf8")
    (tmp_path / "own.toml").write_text(description(), "utf8")
    network = read_network(tmp_path / "own.py")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, (8, 3)), torch.nn.LeakyReLU(), torch.nn.Flatten(2)
    )
    some = plates(3)
    with torch.inference_mode():
        exact = layers(torch.from_numpy(preprocess(some.images, network.input))).numpy()
    for batch in (1, 3):
        found = float_logits(network_weights(network), some, batch=batch)
        assert np.allclose(found, exact, atol=1e-5)
    traced = torch.jit.trace(layers, torch.zeros(1, 3, 8, 12))
    traced.save(str(tmp_path / "script.pt"))
    (tmp_path / "script.toml").write_text(description(), "utf8")
    script = network_weights(read_network(tmp_path / "script.pt"))
    assert np.allclose(float_logits(script, some), exact, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_a_python_file_that_fails_is_one_line(case, tmp_path):
    text, message = WRONG[case]
    (tmp_path / "own.py").write_text(text, "utf8")
    (tmp_path / "own.toml").write_text(description(), "utf8")
    with pytest.raises(DataError, match=message) as raised:
        read_network(tmp_path / "own.py")
    assert "\n" not in str(raised.value) and str(tmp_path / "own.py") in str(raised.value)


def test_a_state_dict_is_no_network(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "own.pt")
    (tmp_path / "own.toml").write_text(description(), "utf8")
    with pytest.raises(DataError, match="not TorchScript"):
        read_network(tmp_path / "own.pt")


def test_the_template_is_a_network(tmp_path):
    write_template(tmp_path / "mine.py")
    network = read_network(tmp_path / "mine.py")
    assert (network.name, network.size, network.steps) == ("mine", (40, 100), 24)
    with pytest.raises(DataError, match="is there already"):
        write_template(tmp_path / "mine")
