import numpy as np

from lprnet_nb.decode import decode
from lprnet_nb.proof.decode_bench import bench, realistic_logits


def test_bench_reports_the_fastest_call():
    result = bench("plate", images=50, repeats=3)
    assert result["decoder"] == "plate" and result["images"] == 50 and result["repeats"] == 3
    assert result["ms_per_batch"] <= result["median_ms_per_batch"]
    assert abs(result["plates_per_second"] * result["ms_per_batch"] / 50_000 - 1) < 0.01


def test_bench_of_given_logits():
    assert bench("greedy", logits=realistic_logits(7), repeats=1)["images"] == 7


def test_realistic_logits_read_as_plates():
    logits = realistic_logits(200)
    assert logits.shape == (200, 68, 18) and logits.dtype == np.float32
    readings = decode(logits, decoder="plate")
    same = np.mean([a == b for a, b in zip(readings.texts, decode(logits).texts)])
    assert 0.85 < same < 0.99
    assert readings.exact.mean() > 0.95
