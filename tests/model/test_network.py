from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lprnet_nb.datasets.alphabet import Alphabet
from lprnet_nb.datasets.images import preprocess
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.evaluate.accuracy import exact_match
from lprnet_nb.model.lprnet.layers import LPRNet, PublishedLPRNet, initialize
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.model.weights import Weights, load_weights

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "float.json").read_text("utf8"))


@pytest.fixture(scope="module")
def random_weights():
    torch.manual_seed(0)
    network = LPRNet()
    initialize(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return Weights("random", {k: v.clone() for k, v in network.state_dict().items()})


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(
        preprocess(np.random.default_rng(0).integers(0, 256, (4, 24, 94, 3), dtype=np.uint8))
    )


def test_the_portable_pools_equal_the_published_ones_bit_for_bit(random_weights, images):
    published = PublishedLPRNet().eval()
    published.load_state_dict(random_weights.state)
    portable = random_weights.network("batch")
    with torch.inference_mode():
        a = published.backbone[14](published.backbone[:14](images))
        b = portable.backbone[14](portable.backbone[:14](images))
    assert torch.equal(a, b) and a.shape == (4, 64, 16, 21)


def test_published_and_portable_network_agree(random_weights, images):
    published = PublishedLPRNet().eval()
    published.load_state_dict(random_weights.state)
    with torch.inference_mode():
        difference = (published(images) - random_weights.network("batch")(images)).abs().max()
    assert difference < 1e-4


def test_the_published_pool_refuses_what_is_not_contiguous(random_weights, images):
    published = PublishedLPRNet().eval()
    stack = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    with pytest.raises(RuntimeError):
        published(stack)


def test_the_forked_form_is_the_same_function(random_weights, images):
    with torch.inference_mode():
        a = random_weights.network("image")(images)
        b = random_weights.network("image", "forked")(images)
    assert (a - b).abs().max() < 1e-4 * a.abs().max()


def test_mean_per_image_does_not_depend_on_company_and_mean_per_batch_does(random_weights, images):
    image, batch = random_weights.network("image"), random_weights.network("batch")
    with torch.inference_mode():
        alone = torch.cat([image(x[None]) for x in images])
        assert (image(images) - alone).abs().max() < 1e-4
        assert (torch.cat([batch(x[None]) for x in images]) - alone).abs().max() < 1e-4
        assert (batch(images) - alone).abs().max() > 1e-3


def test_trace_and_onnx_agree_with_the_network(random_weights, images):
    traced = trace_model(random_weights, 4, "image", "forked")
    with torch.inference_mode():
        expected = random_weights.network("image")(images).numpy()
        script = torch.jit.load(str(traced.path))(images).numpy()
    session = onnxruntime.InferenceSession(str(traced.onnx))
    onnx = session.run(None, {"input": images.numpy()})[0]
    assert traced.input_shape == (4, 3, 24, 94) and traced.output_shape == expected.shape
    assert np.abs(script - expected).max() < 1e-4 and np.abs(onnx - expected).max() < 1e-4
    assert trace_model(random_weights, 4, "image", "forked").path == traced.path


@pytest.mark.parametrize(
    "arguments, message",
    [({"batch": 0}, "batch=0"), ({"batch_mean": "all"}, "'image'"), ({"form": "odd"}, "forked")],
)
def test_impossible_traces_are_refused(random_weights, arguments, message):
    with pytest.raises(ParameterError, match=message):
        trace_model(random_weights, **arguments)


def test_other_class_counts(images):
    alphabet = Alphabet(tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"), 36)
    state = LPRNet(37).state_dict()
    with torch.inference_mode():
        assert Weights("latin", state, alphabet).network()(images).shape == (4, 37, 18)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "No such file"),
        (b"", "cannot be read"),
        (b"\x80\x02garbage", "cannot be read"),
        ([1, 2], "not a state dict"),
        ({"a": torch.zeros(1)}, "do not fit"),
    ],
)
def test_unusable_weights_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DataError, match=message):
        load_weights(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"backbone.0.weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(DataError, match="are pickled objects"):
        load_weights(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


def test_the_class_list_must_fit_the_weights(tmp_path):
    torch.save(LPRNet(37).state_dict(), tmp_path / "w.pth")
    with pytest.raises(DataError, match="37 classes, the class list 68"):
        load_weights(tmp_path / "w.pth")


def test_subnormal_weights_become_zero_and_change_no_logit(random_weights, tmp_path, images):
    state = {k: v.clone() for k, v in random_weights.state.items()}
    state["backbone.8.block.6.weight"][:100] = 1e-40
    torch.save(state, tmp_path / "w.pth")
    loaded = load_weights(tmp_path / "w.pth")
    assert loaded.state["backbone.8.block.6.weight"][:100].abs().max() == 0
    with torch.inference_mode():
        assert torch.equal(loaded.network()(images), Weights("raw", state).network()(images))


@pytest.mark.parametrize(
    "case", GOLDEN["exact_match"], ids=lambda c: f"{c['batch_mean']}-{c['batch']}"
)
def test_published_accuracy_is_reproduced_exactly(published, published_logits, case):
    logits = published_logits(case["batch"], case["batch_mean"])
    assert exact_match(published.labels, decode(logits).texts) == case["value"]


def test_mean_per_image_reads_the_same_at_any_batch(weights, published):
    some = published.take(slice(0, 200))
    one = decode(float_logits(weights, some, batch=1)).texts
    assert decode(float_logits(weights, some, batch=4)).texts == one
    assert decode(float_logits(weights, some, batch=1, batch_mean="batch")).texts == one
