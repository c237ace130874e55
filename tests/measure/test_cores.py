"""Models that are spread over several TPU cores: asked for, named, refused, compiled and run."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb import steps
from lprnet_nb.errors import ParameterError
from lprnet_nb.measure.data import datasets_for
from lprnet_nb.measure.models import planned
from lprnet_nb.measure.parameters import check, combinations
from lprnet_nb.runtime.inference import infer_plates
from lprnet_nb.toolchain.bmodel import BModel

ASKED = {"CHIPS": "BM1688", "PRECISIONS": "fp32", "BATCHES": "4", "DATA": "generated"}
ASKED |= {"STRATEGIES": "kl"}  # of none here, but one at a time


def test_chips_and_toolchains_that_have_one_core_are_refused():
    for values, said in [
        ({"CHIPS": "BM1684X", "CORES": "2"}, "cores=2 is not possible: BM1684X has 1"),
        ({"CHIPS": "BM1688,BM1684", "CORES": "1,2"}, "cores=2 is not possible: BM1684 has 1"),
        ({"CHIPS": "BM1688", "CORES": "3"}, "CORES='3' is not a whole number from 1 to 2"),
        ({"CHIPS": "BM1688", "CORES": "2,2"}, "names something twice"),
        (
            {"CHIPS": "BM1688", "CORES": "2", "TOOLCHAIN": "nntc", "PRECISIONS": "fp32"},
            "CORES=2: TOOLCHAIN='nntc' compiles for one core",
        ),
    ]:
        with pytest.raises(ParameterError, match=said):
            check(**values)


def test_each_number_of_cores_is_a_model_of_its_own():
    one, both = check(**ASKED), check(**ASKED, CORES="1,2")
    assert [row[3] for row in combinations(both)] == [1, 2]
    data = datasets_for(both, labels=False)
    single, spread = planned(both, data)
    assert (single.id, spread.id) == ("bm1688_fp32_4b", "bm1688_fp32_4b_2core")
    assert spread.model.arguments["cores"] == 2 and spread.model.key != single.model.key
    # What was compiled before cores could be asked for is found again.
    [before] = planned(one, data)
    assert "cores" not in before.model.arguments and before.model.key == single.model.key


@pytest.mark.slow
def test_two_cores_give_the_logits_of_one(compiler, tmp_path, monkeypatch):
    """`pytest -m slow tests/measure/test_cores.py`, two compiles."""
    monkeypatch.setattr(steps, "data_dir", lambda: tmp_path)
    asked = check(**ASKED, CORES="1,2")
    paths = steps.gen_bmodels(asked)
    assert [path.name for path in paths] == [
        "lprnet_fp32_4b.bmodel",
        "lprnet_fp32_4b_2core.bmodel",
    ]
    one, two = map(BModel.load, paths)
    assert (one.cores, two.cores) == (1, 2) and one.sha256 != two.sha256
    assert two.predicted_latency_ms < one.predicted_latency_ms
    few = datasets_for(asked, labels=False).plates.take(slice(4))
    simulated = [infer_plates(model, few, "simulator").logits for model in (one, two)]
    emulated = infer_plates(two, few, "emulator").logits
    assert np.abs(simulated[1] - simulated[0]).max() <= 2e-5 * np.abs(simulated[0]).max()
    assert np.abs(emulated - simulated[1]).max() <= 2e-5 * np.abs(emulated).max()
