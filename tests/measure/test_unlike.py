"""A report says where its plates are unlike those that the confidence was calibrated on."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.measure.data import datasets_for
from lprnet_nb.measure.output import Output
from lprnet_nb.measure.parameters import check
from lprnet_nb.measure.rows import measure_all, write_metrics
from lprnet_nb.measure.schema import Metrics
from lprnet_nb.report.verdict import judge

TITLE = "Plates unlike those of the calibration"


@pytest.mark.parametrize("blank", [True, False])
def test_the_page_warns_of_plates_that_are_unlike(blank, tmp_path):
    plates = generate_plates(25, seed=5)
    (tmp_path / "plates").mkdir()
    for text, image in zip(plates.labels, plates.images):
        shown = np.full_like(image, 120) if blank else image
        cv2.imencode(".png", shown)[1].tofile(tmp_path / "plates" / f"{text}.png")
    given = check(DATA=str(tmp_path / "plates"), WEIGHTS="generated", IMAGES=0)
    data = datasets_for(given)
    metrics = write_metrics(Output(tmp_path / "out"), given, data, measure_all(given, data, []))
    warnings = dict(judge(Metrics.model_validate_json(json.dumps(metrics))).warnings)
    if not blank:
        assert metrics["data"].get("unlike") is None and TITLE not in warnings
        return
    assert metrics["data"]["unlike"]["plates"] == 25
    here, there = metrics["data"]["unlike"]["signs"]["confidence"]
    assert here < there and f"mean confidence {here:.2f}, there {there:.2f}" in warnings[TITLE]
