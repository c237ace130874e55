"""Published INT8 figures placed: made again by the vendor's recipe, beside the spread of draws.

The recipe is that of the sophon-demo sample (``gen_int8bmodel_mlir.sh``): its release of TPU-MLIR,
KL thresholds on 1,000 images fed as RGB (the images are 94x24 already, so that its letterbox does
nothing), batch 1 and 4 from the table of batch 1, the mean over the whole batch, images in the
order of their names. How far another draw of calibration images would lie from it is told by draws
of 100 of the same images. All are judged on all plates, as the published models were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..evaluate.published import LATEST, published_accuracy
from ..model.trace import trace_model
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.compile import CalibrationTable, TopGraph, calibrate, top_graph
from ..toolchain.lower_once import Lowering, lower_all
from ..toolchain.strategies import RECIPES, STRATEGIES, Strategy

CHIPS = ("BM1684X", "BM1684", "BM1688")
BATCHES = (1, 4)
RELEASE = "1.6"  # the first that the sample's version of that time asks for
RECIPE = RECIPES["sophon-demo"]
PROGRAM = "lprnet_opencv.py"  # prepares images as the workbook does


def place_published(
    plates: PlateImages,
    weights: Weights,
    samples: Sequence[np.ndarray],
    release: str = RELEASE,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Make the published INT8 models again and say what explains their figures.

    Parameters
    ----------
    plates, weights
        The published ones.
    samples
        Calibration draws, each int64 indices of images.
    release
        Release of TPU-MLIR that calibrates and quantizes.
    report
        Called with what is being done.

    Returns
    -------
    list of dict
        For each chip and batch ``published``, ``recipe`` (exact match of the recipe), ``draws``
        (those of the draws), and ``verdict``, see `verdict`.
    """
    single = _graph(weights, 1, release)
    report(f"calibrating on {RECIPE.images} images by {release}")
    tables = [(RECIPE, calibrate(single, plates.images[: RECIPE.images], RECIPE, CHIPS[0]))]
    for sample in samples:
        report(f"calibrating on {len(sample)} images by {release}")
        kl = STRATEGIES["kl"]
        tables.append((kl, calibrate(single, plates.images[sample], kl, CHIPS[0])))
    wanted = [
        (chip, batch, strategy, table)
        for chip in CHIPS
        for batch in BATCHES
        for strategy, table in tables
    ]
    found = _exact_match(plates, weights, wanted, release)
    rows = []
    for number, (chip, batch) in enumerate((c, b) for c in CHIPS for b in BATCHES):
        recipe, *draws = found[number * len(tables) : (number + 1) * len(tables)]
        published = _published(chip, batch)
        rows.append(
            {
                "chip": chip,
                "batch": batch,
                "release": release,
                "published": published,
                "recipe": recipe,
                "draws": draws,
                "verdict": verdict(published, recipe, draws),
            }
        )
    return rows


def verdict(published: float, recipe: float, draws: Sequence[float]) -> str:
    """What explains a published figure, all rounded to a thousandth as it is.

    Examples
    --------
    >>> verdict(0.883, 0.8834, [0.88])
    'explained'
    >>> verdict(0.881, 0.883, [0.880, 0.885])
    'within the spread'
    >>> verdict(0.858, 0.876, [0.863, 0.880])
    'not explained'
    """
    figures = [round(one, 3) for one in (recipe, *draws)]
    if figures[0] == round(published, 3):
        return "explained"
    return "within the spread" if min(figures) <= published <= max(figures) else "not explained"


def _graph(weights: Weights, batch: int, release: str) -> TopGraph:
    return top_graph(trace_model(weights, batch, "batch"), release=release)


def _exact_match(
    plates: PlateImages,
    weights: Weights,
    wanted: Sequence[tuple[str, int, Strategy, CalibrationTable]],
    release: str,
) -> list[float]:
    graphs = {batch: _graph(weights, batch, release) for batch in BATCHES}
    folders = lower_all(
        release,
        [Lowering(graphs[batch], chip, strategy, table) for chip, batch, strategy, table in wanted],
    )
    inputs, labels = preprocess(plates.images), np.array(plates.labels)
    found = []
    for folder in folders:
        texts = decode(Emulator(folder, threads=1).run(inputs), weights.alphabet, "greedy").texts
        found.append(float((np.array(texts) == labels).mean()))
    return found


def _published(chip: str, batch: int) -> float:
    [row] = [
        row
        for row in published_accuracy(chip, "int8")
        if row.source == LATEST and row.program == PROGRAM and row.batch == batch
    ]
    return row.exact_match
