import time

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import STAGES, Stopwatch


def test_milliseconds_an_image():
    watch = Stopwatch()
    for _ in range(2):
        with watch("inference", images=5):
            time.sleep(0.01)
    result = watch.ms_per_image()
    assert tuple(result) == STAGES == ("decode", "preprocess", "inference", "postprocess")
    assert 2.0 <= result["inference"] < 20
    assert result["decode"] is None


def test_time_counts_even_when_the_work_fails():
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch("decode", images=1):
        time.sleep(0.002)
        raise RuntimeError
    assert watch.ms_per_image()["decode"] >= 2


def test_unknown_stage():
    with pytest.raises(ParameterError, match="decode, preprocess"), Stopwatch()("nap", images=1):
        pass
