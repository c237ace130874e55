"""What the simulator's word is worth: logits altered on purpose against a real BModel's."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.runtime.crosscheck import crosscheck, sample_size
from lprnet_nb.runtime.inference import infer_plates

CLASS = 3  # what the seeded network reads at every step


@pytest.fixture(scope="module")
def model(bmodel):
    return bmodel("BM1688")


@pytest.fixture(scope="module")
def simulated(model, plates) -> np.ndarray:
    logits = infer_plates(model, plates, "simulator").logits
    assert (logits.argmax(1) == CLASS).all()
    return logits


@pytest.fixture
def logits(simulated) -> np.ndarray:
    return simulated.copy()


def test_the_same_logits_are_identical(model, plates, logits):
    found = crosscheck(model, plates, logits)
    assert (found["images"], found["identical"], found["same_classes"]) == (4, True, True)
    assert found["max_abs_difference"] == 0
    assert found["simulator"]["backend"] == "simulator"


def test_a_small_difference_is_told(model, plates, logits):
    logits[3, 5, 7] -= 0.25
    found = crosscheck(model, plates, logits)
    assert (found["identical"], found["same_classes"]) == (False, True)
    assert found["max_abs_difference"] == pytest.approx(0.25, rel=1e-5)


def test_another_class_that_reads_the_same_is_told_and_allowed(model, plates, logits):
    # A blank before the first character, or at the end of the last, changes no reading.
    logits[0, model.alphabet.blank, 0] = logits[0, :, 0].max() + 2
    logits[2, model.alphabet.blank, 16:] = logits[2, :, 16:].max() + 1
    found = crosscheck(model, plates, logits)
    assert (found["identical"], found["same_classes"]) == (False, False)
    assert found["same_readings"] and "read_otherwise" not in found


@pytest.mark.parametrize("step, index", [(5, 9), (0, 9), (17, 9), (5, None)])
def test_another_reading_is_counted_and_names_the_image(
    model, plates, logits, step, index, capsys, monkeypatch
):
    monkeypatch.setattr("lprnet_nb.inputs._said", set())
    # A blank between two equal characters makes two of them.
    logits[1, model.alphabet.blank if index is None else index, step] = logits.max() + 1
    found = crosscheck(model, plates, logits)
    assert (found["same_readings"], found["read_otherwise"]) == (False, ["1.png"])
    assert "1 of 4 images read differently" in capsys.readouterr().err


def test_only_the_sample_is_run(model, plates, logits):
    logits[4:] = 0
    assert crosscheck(model, plates, logits)["identical"]
    assert crosscheck(model, plates, logits, images=5)["read_otherwise"] == ["4.png"]


@pytest.mark.parametrize(
    "batch, there, images, wanted",
    [
        (1, 100, 4, 4),
        (4, 100, 4, 4),
        (3, 100, 4, 6),
        (16, 100, 4, 16),
        (4, 100, 6, 8),
        (4, 7, 6, 7),
        (1, 2, 4, 2),
        (16, 10, 4, 10),
    ],
)
def test_a_sample_is_whole_batches(batch, there, images, wanted):
    assert sample_size(batch, there, images) == wanted
