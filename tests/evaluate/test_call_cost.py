from __future__ import annotations

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate.call_cost import Call, fit_call_cost

# What 0.4 ms, 1.7 and 0.1 ms make of four predictions.
CALLS = [
    Call("fp32", 1, 0.3, 0.4 + 1.7 * 0.3),
    Call("fp16", 1, 0.1, 0.4 + 1.7 * 0.1),
    Call("int8", 1, 0.06, 0.4 + 1.7 * 0.06),
    Call("int8", 4, 0.2, 0.4 + 1.7 * 0.2 + 3 * 0.1),
]


def test_a_call_s_parts_are_found():
    found = fit_call_cost(CALLS)
    assert (found.fixed_ms, found.scale, found.further_ms) == pytest.approx((0.4, 1.7, 0.1))
    assert found.worst == pytest.approx(0, abs=1e-9) == found.held_out
    assert found.expected_ms(0.05) == pytest.approx(0.4 + 1.7 * 0.05)
    assert found.expected_ms(0.2, batch=4) == pytest.approx(CALLS[3].measured_ms)


def test_how_well_it_fits_is_told():
    spoiled = [*CALLS[:1], Call("fp16", 1, 0.1, 1.2 * CALLS[1].measured_ms), *CALLS[2:]]
    found = fit_call_cost(spoiled)
    assert 0.05 < found.worst < 0.2
    # Without fp32, the line through the other two leads from 0.684 and 0.502 ms to 1.594 for 0.91.
    assert found.held_out == pytest.approx(1.594 / 0.91 - 1)


def test_without_a_batch_nothing_is_said_of_one():
    found = fit_call_cost(CALLS[:2])
    assert (found.fixed_ms, found.scale, found.further_ms) == pytest.approx((0.4, 1.7, 0.0))
    assert found.held_out is None
    with pytest.raises(ParameterError, match="at least two models of batch 1"):
        fit_call_cost([CALLS[0], CALLS[3]])
