from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError
from lprnet_nb.runtime import inference

# The models are of the common cache, not of the tests' own.
infer_plates = partial(inference.infer_plates, trust=True)


@pytest.fixture
def fresh(monkeypatch, tmp_path, traced):
    """An empty cache for logits, two images a shard."""
    traced(), traced(4)  # these come from the common cache
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path))
    monkeypatch.setattr(inference, "_SHARD", 2)


def test_infers_and_keeps_the_logits(traced, fresh, plates, reference, tmp_path):
    model = traced()
    first = infer_plates(model, plates)
    assert np.array_equal(first.logits, reference)
    assert first.description["backend"] == "torch"
    assert set(first.seconds) == {"preprocess", "inference"} and first.seconds["inference"] > 0
    again = infer_plates(model, plates)
    assert np.array_equal(again.logits, reference) and again.seconds == first.seconds
    assert len(list((tmp_path / "artifacts" / "logits").glob("[0-9a-f]*/logits.npy"))) == 3


def test_a_stopped_run_goes_on_where_it_was(traced, fresh, plates, reference, monkeypatch):
    model, run = traced(), inference._run_shard
    shards = []

    def stop_at_the_second(engine, images, moved, folder):
        shards.append(len(images))
        if len(shards) == 2:
            raise KeyboardInterrupt
        run(engine, images, moved, folder)

    monkeypatch.setattr(inference, "_run_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        infer_plates(model, plates)
    assert np.array_equal(infer_plates(model, plates).logits, reference)
    assert shards == [2, 2, 2, 2]  # the first one was not run again


def test_other_images_and_other_models_are_other_results(traced, fresh, plates, reference):
    infer_plates(traced(), plates)
    swapped = plates.take([1, 0, 2, 3, 4, 5])
    assert np.array_equal(infer_plates(traced(), swapped).logits[:2], reference[1::-1])
    batched = infer_plates(traced(4), plates)
    assert np.allclose(batched.logits, reference, atol=1e-4)


def test_no_images_is_an_error(traced):
    empty = PlateImages("none", np.empty((0, 24, 94, 3), np.uint8), ())
    with pytest.raises(DataError, match="none has no images"):
        infer_plates(traced(), empty)
