import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import cosine, sqnr_db

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(3, 68, 18)).astype(np.float32)


def test_equal_tensors():
    assert cosine(REFERENCE, REFERENCE) == pytest.approx(1)
    assert sqnr_db(REFERENCE, REFERENCE) == np.inf


def test_known_values():
    assert cosine(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])) == pytest.approx(2**-0.5)
    assert sqnr_db(np.array([[10.0, 0.0]]), np.array([[9.0, 0.0]])) == pytest.approx(20)
    assert cosine(REFERENCE, -3 * REFERENCE) == pytest.approx(-1)


def test_noise_a_tenth_of_the_signal_is_20_db():
    noisy = REFERENCE + 0.1 * RNG.normal(size=REFERENCE.shape).astype(np.float32)
    assert sqnr_db(REFERENCE, noisy) == pytest.approx(20, abs=0.3)


def test_by_image():
    test = REFERENCE.copy()
    test[1] *= 2
    assert cosine(REFERENCE, test, by_image=True) == pytest.approx([1, 1, 1])
    assert sqnr_db(REFERENCE, test, by_image=True) == pytest.approx([np.inf, 0, np.inf])


def test_zeros():
    zero = np.zeros((1, 2))
    assert cosine(zero, zero) == 1
    assert cosine(zero, zero + 1) == 0
    assert sqnr_db(zero, zero + 1) == -np.inf


def test_shapes_must_agree():
    with pytest.raises(ParameterError, match=r"\[3, 68, 18\] and \[68, 18\]"):
        cosine(REFERENCE, REFERENCE[0])
