"""Sentences of the study: each holds the values that its data have."""

from __future__ import annotations

import numpy as np

from lprnet_nb.study import cells, sentences
from lprnet_nb.toolchain.strategies import STRATEGIES


def line(strategy, mean, **more):
    return {
        "strategy": strategy,
        "chip": "BM1684X",
        "scheme": "cross-fit",
        "draws": 5,
        "mean": mean,
        "low": mean - 0.01,
        "high": mean + 0.01,
        **more,
    }


def test_what_was_not_run_is_named():
    made = {
        "rows": [
            {"strategy": name, "chip": "BM1684X", "scheme": "cross-fit", "error": "no"}
            for name in STRATEGIES
            if name != "kl-450"
        ],
        "provenance": {},
        "float": {"images": 4, "bits": "f0", "correct": 4},
    }
    said = sentences.tried(made)
    assert said.startswith(f"{len(STRATEGIES) - 1} strategies, 1 chips")
    assert said.endswith(f"{len(STRATEGIES) - 1} settings are refused by a tool. Not run: kl-450.")


def test_spread():
    lines = [line("kl", 0.87), line("mse", 0.88), line("forked", 0.89), line("broken", 0.01)]
    (said,) = sentences.spread(lines)
    assert said == (
        "BM1684X: draws of one strategy lie 2.0 points apart in the median and up to "
        "2.0 points; the means of the 3 strategies lie within 2.0 points, half of them "
        "within 1.0 points."
    )


def test_fork_with_and_without_a_predicted_time():
    def row(strategy, count, chip):
        return {
            "strategy": strategy,
            "chip": chip,
            "scheme": "cross-fit",
            "draw": 0,
            "images": 1000,
            "correct": count,
            "by_fold": [],
            "bits": cells.pack(np.arange(1000) < count),
        }

    made = {
        "rows": [
            row(name, count, chip)
            for chip in ("BM1684X", "BM1684")
            for name, count in (("mse", 880), ("mse-forked", 892))
        ],
        "models": [
            {"strategy": "mse", "chip": "BM1684X", "predicted_latency_ms": 0.06},
            {"strategy": "mse-forked", "chip": "BM1684X", "predicted_latency_ms": 0.04},
        ],
    }
    first, second = sentences.forks(made)
    assert "+1.2 points" in first and "0.0600 to 0.0400 ms (-33 %)" in first
    assert second.endswith("; no predicted time.")


def test_roles_and_company():
    roles = [
        {"chip": "BM1684", "mode": mode, "role": role, "images": 200, "steps_off": off}
        for mode, role, off in (
            ("all", None, 40),
            ("float", "input", 34),
            ("float", "block4", 29),
            ("int8", "input", 11),
            ("int8", "concat", 22),
        )
    ]
    (said,) = sentences.roles(roles)
    assert "40 of 3600" in said and "is block4, which leaves 29" in said
    assert said.endswith("concat costs most, 22.")
    company = [
        {"chip": "BM1684", "batch": 4, "batch_mean": mean, "images": 1000, "moved": moved}
        for mean, moved in (("batch", 88), ("image", 0))
    ]
    (said,) = sentences.company(company)
    assert "88 of 1000 readings" in said and "0 of 1000 readings" in said


def test_proof_counts_what_was_compared():
    checked = [
        {"images": 4, "identical": True, "max_abs_difference": 0.0},
        {"images": 4, "identical": False, "max_abs_difference": 0.03},
    ]
    models = [{"chip": "BM1684X", "same_graph": True, "simulator": found} for found in checked]
    models.append({"chip": "BM1684X", "error": "refused"})
    (said,) = sentences.proof(models)
    assert "2 of 2 BModels" in said and "read 8 plates with 2 of them" in said
    assert said.endswith(
        "1 with the same logits to the bit; 1 with the same readings, up to 0.03 of a logit."
    )
    checked[1] |= {"same_classes": False}
    assert sentences.proof(models)[0].endswith("to the bit; 1 with other readings.")
    assert "simulator" not in sentences.proof([{"chip": "B", "same_graph": True}])[0]
