"""BModels and images for the engines' tests; compiled once, then taken from the cache."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from lprnet_nb.datasets.images import PlateImages, preprocess
from lprnet_nb.model.lprnet.layers import LPRNet
from lprnet_nb.model.trace import TracedModel, trace_model
from lprnet_nb.model.weights import Weights


@functools.cache
def _traced(batch: int, batch_mean: str) -> TracedModel:
    torch.manual_seed(7)
    return trace_model(Weights("seeded", LPRNet(68).eval().state_dict()), batch, batch_mean)


@pytest.fixture(scope="session")
def traced():
    """Seeded random weights, traced: needs no published data."""
    return lambda batch=1, batch_mean="image": _traced(batch, batch_mean)


@pytest.fixture(scope="session")
def bmodel(compiler):
    """FP32 BModel records of the seeded weights, by chip."""
    from lprnet_nb.toolchain.compile import compile_bmodel

    return functools.cache(
        lambda chip, batch=1, batch_mean="image": compile_bmodel(
            _traced(batch, batch_mean), chip, "fp32"
        )
    )


@pytest.fixture(scope="session")
def plates() -> PlateImages:
    """Six pictures of seeded noise and gradients."""
    noise = np.random.default_rng(3).integers(0, 256, (6, 24, 94, 3), dtype=np.uint8)
    noise[1::2] = np.sort(noise[1::2], axis=2)
    return PlateImages("noise", noise, tuple(f"{index}.png" for index in range(6)))


@pytest.fixture(scope="session")
def inputs(plates) -> np.ndarray:
    return preprocess(plates.images)


@pytest.fixture(scope="session")
def reference(traced, inputs) -> np.ndarray:
    """Float logits of `inputs`."""
    with torch.inference_mode():
        network = torch.jit.load(str(traced().path))
        return torch.cat([network(part) for part in torch.from_numpy(inputs).split(1)]).numpy()
