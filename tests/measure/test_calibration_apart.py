"""No image that a model is judged on is one that its thresholds were chosen on.

Images are compared by their pixels, not by the indices or seeds that chose them.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates, stream_chunks, write_plates
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.datasets.splits import cross_fit, within
from lprnet_nb.measure.data import Data, datasets_for
from lprnet_nb.measure.parameters import Parameters, check
from lprnet_nb.model.qat import QatConfig
from lprnet_nb.model.train import TrainConfig
from lprnet_nb.study.cells import CROSS_FIT, GENERATED, WITHIN, Plan, _calibration_images
from lprnet_nb.toolchain.strategies import make_strategy

COUNT = 60


def pixels(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.fixture
def strategy(tmp_path) -> str:
    """A strategy that takes 20 images."""
    path = tmp_path / "kl-20-tune1.json"
    path.write_text(json.dumps(make_strategy(name="kl-20-tune1", images=20, tune=1).model_dump()))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty labelled plates as files."""
    place = tmp_path_factory.mktemp("plates")
    write_plates(generate_plates(40, seed=21, workers=0), place)
    return place


@pytest.fixture(scope="module")
def numbered() -> PlateImages:
    """Images of which each says its own index, so that pixels tell them apart."""
    images = np.zeros((COUNT, 24, 94, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(COUNT)
    return PlateImages("numbered", images, tuple(f"{i:02d}" for i in range(COUNT)))


def parameters(data: str, images: int, strategy: str) -> Parameters:
    return check(
        DATA=data,
        IMAGES=images,
        CHIPS="BM1684X",
        PRECISIONS="int8",
        STRATEGIES=strategy,
        WEIGHTS="generated",
    )


def checked(found: Data, judged: int) -> None:
    assert len(found.plates) == judged and not found.overlap
    assert found.description()["calibration"]["among_evaluated"] is False
    assert not pixels(found.plates.images) & pixels(found.pool.read().images)
    for count in (1, 20):
        chosen = found.calibration_images(count)
        assert len(chosen) == count and not pixels(chosen) & pixels(found.plates.images)
        assert pixels(chosen) <= pixels(found.pool.read().images)


@pytest.mark.parametrize("images", [7, 100, 0])
def test_a_report_on_generated_plates(strategy, images):
    checked(datasets_for(parameters("generated", images, strategy)), images or 1000)


@pytest.mark.parametrize("images", [7, 500])
def test_a_report_on_published_plates(published, strategy, images):
    found = datasets_for(parameters("published", images, strategy))
    checked(found, images)
    assert len(found.pool) == 1000 - images


@pytest.mark.parametrize("images", [7, 20])
def test_a_report_on_a_folder(folder, strategy, images):
    found = datasets_for(parameters(str(folder), images, strategy))
    checked(found, images)
    assert len(found.pool) == 40 - images


@pytest.mark.parametrize("images", [21, 40, 0])
def test_where_too_few_are_left_the_overlap_is_said(folder, strategy, images):
    found = datasets_for(parameters(str(folder), images, strategy))
    assert found.overlap and found.description()["calibration"]["among_evaluated"] is True
    assert pixels(found.plates.images) <= pixels(found.pool.read().images)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_fold_of_every_draw_of_a_study(numbered, folds):
    plan = Plan((), (), draws=(0, 1, 2, 3, 4), folds=folds)
    judged: dict[tuple[str, int], list[bytes]] = {}
    for scheme, split in plan.splits(COUNT):
        images = _calibration_images(numbered, scheme, split, 20)
        assert len(pixels(images)) == len(images) == 20
        mine = pixels(numbered.images[split.evaluate])
        if scheme == WITHIN:  # as published figures were made; its name says so
            assert pixels(images) <= mine
        else:
            assert not pixels(images) & mine
        judged.setdefault((scheme, split.draw), []).extend(mine)
    for (scheme, _), images in judged.items():
        assert len(images) == COUNT and set(images) == pixels(numbered.images), scheme


def test_draws_and_folds_have_orders_of_their_own():
    # As places among the images outside the fold: equal ones would be equal random numbers.
    places = [
        np.searchsorted(np.sort(split.order), split.order)[:25].tolist()
        for draw in range(5)
        for split in (*cross_fit(COUNT, 2, draw), within(COUNT, draw))
    ]
    assert not [pair for pair in combinations(places, 2) if pair[0] == pair[1]]
    cuts = [tuple(split.evaluate) for draw in range(5) for split in cross_fit(COUNT, 2, draw)]
    assert len(set(cuts)) == len(cuts)


def test_calibration_takes_the_order_from_its_start():
    for split in (*cross_fit(COUNT, 3, 1), within(COUNT, 1)):
        for count in (1, 7, len(split.order)):
            assert split.calibrate(count).tolist() == split.order.tolist()[:count]
    # Which images they are is part of every published figure of the study.
    assert cross_fit(1000, 2, 0)[0].calibrate(4).tolist() == [688, 178, 526, 766]


def test_generated_plates_of_different_use_are_different_plates(numbered, strategy, tmp_path):
    report = datasets_for(parameters("generated", 64, strategy))
    sets = {"judged": report.plates.images, "calibration": report.calibration_images(64)}
    for scheme, split in Plan((), ()).splits(COUNT):
        if scheme == GENERATED:
            sets[f"study {split.draw}"] = _calibration_images(numbered, scheme, split, 64)
    for draw in range(5):
        size = QatConfig().batch
        sets[f"fine-tuning {draw}"] = next(stream_chunks(draw, workers=0, size=size)).images
    size = TrainConfig(tmp_path / "w", tmp_path / "c").batch
    sets["training"] = next(stream_chunks(2026, workers=0, size=size)).images
    for (one, first), (other, second) in combinations(sets.items(), 2):
        assert not pixels(first) & pixels(second), (one, other)


def test_schemes_have_the_names_that_studies_are_filed_by():
    assert (CROSS_FIT, WITHIN, GENERATED) == ("cross-fit", "within", "generated")
