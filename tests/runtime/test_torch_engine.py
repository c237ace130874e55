from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime import open_engine


def test_gives_the_reference_logits(traced, inputs, reference):
    with open_engine(traced(), "torch") as engine:
        assert np.array_equal(engine.infer(inputs), reference)
        outputs = engine.process("lprnet", {"input": inputs[:1]})
        assert engine.backend == engine.description["backend"] == "torch"
    assert np.array_equal(outputs["logits"], reference[:1])


def test_pads_a_last_batch_that_is_not_full(traced, inputs, reference):
    with open_engine(traced(4), "torch") as engine:
        assert engine.batch == 4
        assert np.allclose(engine.infer(inputs), reference, atol=1e-4)


def test_a_damaged_trace_is_an_engine_error(traced, tmp_path):
    path = tmp_path / "LPRNet_model_trace.pt"
    path.write_bytes(traced().path.read_bytes()[:1000])
    with pytest.raises(EngineError, match="cannot load the traced model"):
        open_engine(dataclasses.replace(traced(), path=path), trust=True)


def test_the_number_of_threads_changes_no_bit(traced, inputs):
    before = torch.get_num_threads()
    found = []
    try:
        for outside, threads in ((1, 1), (1, 3), (3, 1), (3, 3)):
            torch.set_num_threads(outside)
            with open_engine(traced(), "torch", threads=threads) as engine:
                found.append(engine.infer(inputs))
            assert torch.get_num_threads() == outside
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found[1:])
