"""The parser of the compiler's predicted runs, on a written profile and on real ones."""

from __future__ import annotations

import pytest

from lprnet_nb.errors import ToolchainError
from lprnet_nb.toolchain.profile import (
    COMPUTE,
    MEMORY,
    latency_by_layer,
    parse_profile,
    read_profile,
)

PROFILE = """
ENGINE_BD                              ENGINE_GDMA
                                       Load_1|GDMA_TENSOR|s:0|b:0|g:1|e:399|t:400|dr:0|sz:64|bw:1
Conv2D_2|CONV|s:400|b:1|g:1|e:699|t:300 Load_3|GDMA_TENSOR|s:500|b:0|g:2|e:599|t:100|dr:0|sz:32|bw:1
Conv2D_2|RQDQ|s:700|b:2|g:1|e:799|t:100
                                       Store_4|GDMA_TENSOR|s:800|b:2|g:3|e:999|t:200|dr:1|sz:8|bw:1
API_END total_cycle:1000|b:2|g:3
DDR BW USAGE : 70.0%
flops: 12, runtime: 0.001ms, ComputationAbility: 0.1T
"""


def test_a_written_profile() -> None:
    profile = parse_profile(PROFILE)
    assert (profile.cycles, profile.milliseconds, profile.operations) == (1000, 0.001, 12)
    assert profile.traffic_percent == 70.0
    assert profile.by_layer() == [
        {"name": "Load_1", "unit": MEMORY, "cycles": 400},
        {"name": "Conv2D_2", "unit": COMPUTE, "cycles": 400},
        {"name": "Load_3", "unit": MEMORY, "cycles": 100},
        {"name": "Store_4", "unit": MEMORY, "cycles": 200},
    ]
    assert profile.by_kind() == {"Load": 500, "Conv2D": 400, "Store": 200}
    assert profile.busy() == {COMPUTE: 0.4, MEMORY: 0.7, "both": pytest.approx(0.1)}
    assert sum(command.size for command in profile.commands) == 104


@pytest.mark.parametrize("text", ["", "API_END total_cycle:1", PROFILE.split("API_END")[0]])
def test_what_is_no_profile(text: str) -> None:
    with pytest.raises(ToolchainError, match="no compiler profile"):
        parse_profile(text)


def test_no_profile_in_a_folder(tmp_path) -> None:
    assert read_profile(tmp_path) is None
    assert latency_by_layer(tmp_path) == []


@pytest.mark.parametrize("chip, gigahertz", [("BM1684X", 1.0), ("BM1688", 0.9)])
def test_real_profiles(compiler, weights, chip: str, gigahertz: float) -> None:
    from lprnet_nb.model.trace import trace_model
    from lprnet_nb.toolchain.compile import compile_bmodel

    bmodel = compile_bmodel(trace_model(weights), chip, "fp32")
    profile = read_profile(bmodel.folder)
    assert profile.milliseconds == bmodel.predicted_latency_ms
    assert profile.cycles / profile.milliseconds / 1e6 == pytest.approx(gigahertz, rel=1e-3)
    assert max(command.end for command in profile.commands) == profile.cycles - 1
    assert sum(row["name"].startswith("Conv2D") for row in profile.by_layer()) == 16
    assert profile.busy()[COMPUTE] > 0.6  # float convolutions bound the call
