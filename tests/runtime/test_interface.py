from __future__ import annotations

import warnings

import numpy as np
import pytest

from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.runtime import open_engine
from lprnet_nb.runtime.bmodel_file import Graph, Stage, TensorInfo
from lprnet_nb.runtime.interface import Engine, from_chip, to_chip


class Echo(Engine):
    """Answers with the first pixel of each image, and keeps the batch sizes that it was given."""

    backend = "echo"

    def __init__(self, *batches, **options):
        self.calls = []
        super().__init__(
            (
                Graph(
                    "lprnet",
                    tuple(
                        Stage(
                            (TensorInfo("input", (batch, 3, 24, 94)),),
                            (TensorInfo("logits", (batch, 68, 18)),),
                        )
                        for batch in batches
                    ),
                ),
            ),
            **options,
        )

    def _run(self, graph, stage, inputs):
        self.calls.append(len(inputs["input"]))
        return {
            "logits": np.broadcast_to(
                inputs["input"][:, 0, 0, :1, None], (len(inputs["input"]), 68, 18)
            )
        }


def images(count):
    array = np.zeros((count, 3, 24, 94), np.float32)
    array[:, 0, 0, 0] = np.arange(count)
    return array


def test_answers_as_sail_does(traced):
    with open_engine(traced()) as engine:
        [graph] = engine.get_graph_names()
        assert engine.get_input_names(graph) == ["input"]
        assert engine.get_output_names(graph) == ["logits"]
        assert engine.get_input_shape(graph, "input") == [1, 3, 24, 94]
        assert engine.get_output_shape(graph, "logits") == [1, 68, 18]
        assert engine.get_input_dtype(graph, "input") == "BM_FLOAT32"
        assert engine.get_input_scale(graph, "input") == 1.0
        assert engine.get_device_id() == 0 and not engine.graph_is_dynamic(graph)
    engine = Echo(1, 4)
    assert engine.get_max_input_shapes("lprnet") == {"input": [4, 3, 24, 94]}
    assert engine.get_max_output_shapes("lprnet") == {"logits": [4, 68, 18]}


@pytest.mark.parametrize(
    "graph, inputs, message",
    [
        ("other", {"input": images(1)}, "unknown graph 'other'. This model has: lprnet"),
        ("lprnet", {}, "given none"),
        ("lprnet", images(1), "expected a dict"),
        ("lprnet", {"image": images(1)}, "takes the inputs input; it was given image"),
        ("lprnet", {"input": images(1), "more": images(1)}, "given input, more"),
        ("lprnet", {"input": images(1).astype(np.float64)}, "float64, expected a float32"),
        ("lprnet", {"input": images(1).astype(np.uint8)}, "uint8, expected a float32"),
        ("lprnet", {"input": images(1).tolist()}, "list, expected a float32"),
        ("lprnet", {"input": images(1)[0]}, r"not compiled for the shapes .*\[3, 24, 94\]"),
        ("lprnet", {"input": images(2)}, "not compiled for the shapes"),
        ("lprnet", {"input": images(1) * np.nan}, "not finite"),
    ],
)
def test_process_refuses_what_sail_would_choke_on(graph, inputs, message):
    engine = Echo(1, 4)
    with pytest.raises(ParameterError, match=message):
        engine.process(graph, inputs)
    assert engine.calls == []


@pytest.mark.parametrize("ask", ["get_input_names", "get_max_input_shapes", "graph_is_dynamic"])
def test_unknown_graph_is_named(ask):
    with pytest.raises(ParameterError, match="unknown graph 'x'"):
        getattr(Echo(1), ask)("x")


def test_unknown_tensor_is_named():
    with pytest.raises(ParameterError, match="no tensor 'x' among its inputs: input"):
        Echo(1).get_input_shape("lprnet", "x")


def test_takes_arrays_that_are_not_contiguous():
    array = np.zeros((1, 24, 94, 3), np.float32).transpose(0, 3, 1, 2)
    array[0, 0, 0, 0] = 9
    assert Echo(1).process("lprnet", {"input": array})["logits"][0, 0, 0] == 9


@pytest.mark.parametrize(
    "batches, count, calls",
    [
        ([1], 3, [1, 1, 1]),
        ([4], 8, [4, 4]),
        ([4], 6, [4, 4]),
        ([4], 1, [4]),
        ([1, 4], 6, [4, 1, 1]),
        ([2, 4], 7, [4, 2, 2]),
    ],
)
def test_covers_any_number_of_images(batches, count, calls):
    engine = Echo(*batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = engine.infer(images(count))
    assert engine.calls == calls
    assert logits.dtype == np.float32 and logits[:, 0, 0].tolist() == list(range(count))
    assert engine.batch == max(batches) and engine.seconds > 0


def test_warns_where_padding_changes_results():
    with pytest.warns(UserWarning, match="lacks 2 images .* CHANGES"):
        Echo(4, batch_mean="batch").infer(images(6))


@pytest.mark.parametrize(
    "inputs, message",
    [
        (images(0), "N of at least 1"),
        (images(1)[0], "expected"),
        (np.zeros((1, 24, 94, 3), np.float32), r"shape \[1, 24, 94, 3\], expected"),
        (np.zeros((1, 3, 24, 94)), "float64"),
    ],
)
def test_infer_refuses_wrong_inputs(inputs, message):
    with pytest.raises(ParameterError, match=message):
        Echo(1).infer(inputs)


def test_a_closed_engine_says_so():
    engine = Echo(1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.process("lprnet", {"input": images(1)})
    with pytest.raises(EngineError, match="is closed"):
        engine.infer(images(1))


def test_integer_inputs_are_scaled_rounded_and_cut():
    tensor = TensorInfo("input", (5,), "BM_INT8", 128.0)
    real = np.array([0.5, -1.5, 0.01171875, 0.00390625, 0.99609375], np.float32)
    assert to_chip(real, tensor).tolist() == [64, -128, 2, 0, 127]
    assert to_chip(real, TensorInfo("input", (5,))) is real


def test_outputs_come_back_as_real_values():
    stored = np.array([-3, 0, 100], np.int8)
    real = from_chip(stored.tobytes(), (3,), TensorInfo("logits", (3,), "BM_INT8", 0.5))
    assert real.dtype == np.float32 and real.tolist() == [-1.5, 0.0, 50.0]
    halves = np.array([0.25, -2], np.float16)
    assert from_chip(
        halves.tobytes(), (2,), TensorInfo("logits", (2,), "BM_FLOAT16", 9.0)
    ).tolist() == [0.25, -2.0]
    with pytest.raises(EngineError, match="BM_INT4"):
        from_chip(b"", (0,), TensorInfo("logits", (0,), "BM_INT4"))


def test_preprocessing_in_the_model_gets_raw_pixels(plates, inputs):
    class Keep(Echo):
        def _run(self, graph, stage, inputs):
            self.given = inputs["input"]
            return super()._run(graph, stage, inputs)

    engine = Keep(1)
    stage = Stage(
        (TensorInfo("input", (6, 3, 24, 94), "BM_UINT8"),), (TensorInfo("logits", (6, 68, 18)),)
    )
    engine._graphs = {"lprnet": Graph("lprnet", (stage,))}
    engine.infer(inputs)
    assert np.array_equal(engine.given, plates.images.transpose(0, 3, 1, 2))
