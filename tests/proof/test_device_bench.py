"""The bench of the torch executor on a device, run on the CPU; a GPU is not needed to see it."""

from __future__ import annotations

import pytest
import torch

from lprnet_nb.errors import ParameterError
from lprnet_nb.proof.device_bench import bench_device


def test_on_the_cpu_torch_is_the_native_kernels_to_the_bit():
    found = bench_device("cpu", images=3, rounds=1)
    assert found["agreement"] == {
        "images": 3,
        "identical": True,
        "max_abs_difference": 0.0,
        "same_strings": 3,
    }
    rates = found["images_per_second"]
    assert set(rates) == {"native_core", "device", "float"} and min(rates.values()) > 0
    assert found["times_a_core"] == pytest.approx(rates["device"] / rates["native_core"], abs=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ParameterError, match="has no device 'cuda' here.*NVIDIA GPU"):
        bench_device()


def test_nothing_to_measure_is_refused():
    with pytest.raises(ParameterError, match="at least one round and one image"):
        bench_device("cpu", images=0)
