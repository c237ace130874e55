"""Published INT8 figures placed: made again by the vendor's recipe, beside the spread of draws.

The recipe is that of the sophon-demo sample (``gen_int8bmodel_mlir.sh``): its network as ONNX
(`sample`), KL thresholds on 1,000 images fed as RGB (the images are 94x24 already, so that its
letterbox does nothing), batch 1 and 4 from the table of batch 1, the mean over the whole batch.
`SCRIPTS` says what the script was like when a chip's figures appeared; the releases of that time
are not on PyPI, so that the first one there stands for them. The same recipe on the workbook's
trace, and draws of 100 of the same images on it, tell how far chance reaches. All are judged on all
plates, as the published models were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..evaluate.published import LATEST, published_accuracy
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.compile import calibrate, top_graph
from ..toolchain.lower_once import Lowering, lower_all
from ..toolchain.strategies import RECIPES, STRATEGIES, Strategy
from .sample import by_md5, by_number, sample_onnx


@dataclass(frozen=True)
class Script:
    """The sample's script when figures of a chip appeared in its README.

    Parameters
    ----------
    since
        When they did.
    asked
        Release of TPU-MLIR that the sample asked for then, "at least".
    symmetric
        Whether the script lacked ``--asymmetric``.
    release
        What stands for that release: the oldest on PyPI, or one that heeds ``--asymmetric``.
    """

    since: str
    asked: str
    symmetric: bool = True
    release: str = "1.6"


# sophon-demo's commits 4770f8e, 5ecd1a4 (which also took --asymmetric away) and 7a869f1.
SCRIPTS = {
    "BM1684X": Script("2023-04", "0.7.1", symmetric=False, release="1.8.1"),
    "BM1684": Script("2023-07", "1.2.2"),
    "BM1688": Script("2023-11", "1.2.2"),
}
BATCHES = (1, 4)
RELEASE = "1.6"  # calibrates; thresholds of KL are the same up to 1.8.1
RECIPE = RECIPES["sophon-demo"]
PROGRAM = "lprnet_opencv.py"  # prepares images as the workbook does
Wanted = tuple[str, str, Strategy, str]  # name of the figure, chip, strategy, release
Route = tuple[str, Callable[[int], TracedModel], Strategy, np.ndarray]  # name, network, and images


def place_published(
    plates: PlateImages,
    weights: Weights,
    samples: Sequence[np.ndarray],
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Make the published INT8 models again and say what explains their figures.

    Parameters
    ----------
    plates, weights
        The published ones.
    samples
        Calibration draws, each int64 indices of images.
    report
        Called with what is being done.

    Returns
    -------
    list of dict
        For each chip and batch ``published``, ``since`` and ``asked`` (see `Script`), exact match
        of ``recipe`` and, if the script was asymmetric, ``symmetric`` (the same without it),
        ``traced`` (the recipe on the workbook's trace) and ``draws``; and ``verdict``, see
        `verdict`.
    """

    def traced(batch: int) -> TracedModel:
        return trace_model(weights, batch, "batch")

    routes: list[Route] = [
        ("recipe", lambda batch: sample_onnx(weights, batch), RECIPE, by_md5(plates)),
        ("traced", traced, RECIPE, np.arange(len(plates))),
        *(("draws", traced, STRATEGIES["kl"], sample) for sample in samples),
    ]
    found: dict[tuple[str, int], dict[str, list[float]]] = {
        (chip, batch): {} for chip in SCRIPTS for batch in BATCHES
    }
    for name, network, strategy, order in routes:
        report(f"{name}: calibrating on {min(strategy.images, len(order))} images by {RELEASE}")
        images = plates.images[order[: strategy.images]]
        wanted = _wanted(name, strategy)
        values = _exact_match(plates, weights, network, images, wanted)
        for (key, chip, batch), value in values.items():
            found[chip, batch].setdefault(key, []).append(value)
    return [_row(*key, cell) for key, cell in found.items()]


def _wanted(name: str, strategy: Strategy) -> list[Wanted]:
    """What is asked of a route."""
    if name != "recipe":
        return [(name, chip, strategy, RELEASE) for chip in SCRIPTS]
    found = []
    for chip, script in SCRIPTS.items():
        as_then = strategy.model_copy(update={"symmetric": script.symmetric})
        found.append((name, chip, as_then, script.release))
        if not script.symmetric:
            found.append(("symmetric", chip, strategy, RELEASE))
    return found


def _row(chip: str, batch: int, cell: dict[str, list[float]]) -> dict[str, Any]:
    figure, script = _published(chip, batch), SCRIPTS[chip]
    single = {key: values[0] for key, values in cell.items() if key != "draws"}
    others = [*cell["draws"], *(value for key, value in single.items() if key != "recipe")]
    return {
        "chip": chip,
        "batch": batch,
        "release": script.release,
        "published": figure,
        "since": script.since,
        "asked": script.asked,
        **single,
        "draws": cell["draws"],
        "verdict": verdict(figure, single["recipe"], others),
    }


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


def _exact_match(
    plates: PlateImages,
    weights: Weights,
    network: Callable[[int], TracedModel],
    images: np.ndarray,
    wanted: Sequence[Wanted],
) -> dict[tuple[str, str, int], float]:
    """Exact match by name, chip and batch; all are calibrated once, for no chip in particular."""
    graph = top_graph(network(1), release=RELEASE)
    table = calibrate(graph, images, wanted[0][2], wanted[0][1])
    read = plates.take(by_number(plates))
    inputs, labels = preprocess(read.images), np.array(read.labels)
    found = {}
    for release in dict.fromkeys(release for *_, release in wanted):
        graphs = {batch: top_graph(network(batch), release=release) for batch in BATCHES}
        models = {
            (name, chip, batch): Lowering(graphs[batch], chip, strategy, table)
            for name, chip, strategy, by in wanted
            for batch in BATCHES
            if by == release
        }
        for key, folder in zip(models, lower_all(release, list(models.values())), strict=True):
            logits = Emulator(folder, threads=1).run(inputs)
            texts = decode(logits, weights.alphabet, "greedy").texts
            found[key] = float((np.array(texts) == labels).mean())
    return found


def _published(chip: str, batch: int) -> float:
    [row] = [
        row
        for row in published_accuracy(chip, "int8")
        if row.source == LATEST and row.program == PROGRAM and row.batch == batch
    ]
    return row.exact_match
