"""The single steps of the command line and the users' scripts, under the file names they know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cache import atomic_write, data_dir
from .datasets.alphabet import PUBLISHED, read_alphabet
from .datasets.folder import load_plates, read_truth
from .datasets.generate import ONE_ROW, generate_plates, write_plates
from .datasets.labels import read_labels
from .datasets.pictures import load_pictures
from .decode import decode
from .errors import DataError, ParameterError
from .evaluate.accuracy import character_accuracy, correct
from .evaluate.intervals import wilson
from .inputs import note
from .measure.data import datasets_for, weights_for
from .measure.models import compile_all
from .measure.parameters import Parameters
from .memory import keep_memory
from .model.trace import trace_model
from .model.train import TrainConfig, train
from .runtime.inference import infer_plates
from .runtime.views import read_views
from .toolchain.bmodel import BModel


def gen_traces(parameters: Parameters) -> list[Path]:
    """Trace for each batch size into ``data/models/torch/``: batch 1 under the published name."""
    weights = weights_for(parameters)
    folder = data_dir() / "models" / "torch"
    written = []
    for batch in parameters.batches:
        traced = trace_model(weights, batch, parameters.batch_mean)
        stem = "LPRNet_model_trace" + (f"_{batch}b" if batch > 1 else "")
        written.append(atomic_write(folder / f"{stem}.pt", traced.path.read_bytes()))
        written.append(atomic_write(folder / f"{stem}.onnx", traced.onnx.read_bytes()))
    return written


def gen_bmodels(parameters: Parameters) -> list[Path]:
    """Compile into ``data/models/<CHIP>/lprnet_<precision>_<batch>b.bmodel``, a record beside each.

    Raises
    ------
    ParameterError
        When two strategies would write the same file.
    """
    if len(parameters.strategies) != 1:
        raise ParameterError("one strategy at a time: both would write lprnet_int8_*.bmodel.")
    if len(parameters.tpu_mlir) > 1:
        raise ParameterError("one release at a time: both would write lprnet_*.bmodel.")
    data = datasets_for(parameters, labels=False)
    written = []
    for item in compile_all(parameters, data):
        bmodel = item.bmodel
        written.append(
            _publish(bmodel, data_dir() / "models" / bmodel.chip / f"{bmodel.name}.bmodel")
        )
    return written


def gen_one_key(parameters: Parameters) -> Path:
    """Quantize and compile batch 1 with TPU-NNTC's one-key tool, under the name that users know.

    Raises
    ------
    ParameterError
        When more than one chip or strategy is named.
    """
    from .toolchain.nntc.compile import auto_calibrate
    from .toolchain.nntc.strategies import NntcStrategy

    if len(parameters.chips) != 1 or len(parameters.strategies) != 1:
        raise ParameterError("the one-key tool takes one chip and one strategy at a time.")
    chip = parameters.chips[0]
    data = datasets_for(parameters, labels=False)
    strategy = parameters.strategies[0].by_chip[chip].cut_to(len(data.pool))
    if not isinstance(strategy, NntcStrategy):
        raise ParameterError("the one-key tool is TPU-NNTC's: set TOOLCHAIN to nntc.")
    traced = trace_model(data.weights, 1, parameters.batch_mean, strategy.form)
    bmodel = auto_calibrate(traced, chip, strategy, data.calibration_images(strategy.images))
    return _publish(bmodel, data_dir() / "models" / bmodel.chip / f"{bmodel.name}.bmodel")


def combine(bmodels: Sequence[str | Path], output: str | Path) -> Path:
    """Put the same network at several batch sizes into one BModel, its record beside it.

    Raises
    ------
    DataError
        When a BModel has no record beside it.
    ParameterError
        When they do not go together.
    """
    from .toolchain.nntc.compile import combine_bmodels

    return _publish(combine_bmodels([BModel.load(path) for path in bmodels]), Path(output))


def _publish(bmodel: BModel, target: Path) -> Path:
    # A BModel with another's record beside it is refused on loading (SHA-256), so a stop between
    # these two lines is noticed.
    atomic_write(target, bmodel.path.read_bytes())
    bmodel.save_beside(target)
    return target


def read_plates(
    bmodel: str | Path,
    images: Sequence[str | Path],
    backend: str = "auto",
    decoder: str = "greedy",
    *,
    views: bool = False,
    trust: bool = False,
) -> dict[str, str]:
    """Read pictures, folders or lists of them with a BModel: ``{file name: plate}``.

    `images` are as for `pictures.load_pictures`. With `views`, each plate is read three times, see
    `views.read_views`.

    Raises
    ------
    DataError
        When the BModel has no record beside it or an image is unreadable.
    """
    model = BModel.load(bmodel)
    plates = load_pictures(images)
    if views:
        readings = read_views(model, plates, decoder, backend, progress=True, trust=trust)
    else:
        inference = infer_plates(model, plates, backend, progress=True, trust=trust)
        readings = decode(inference.logits, model.alphabet, decoder)
    return dict(zip(plates.names, readings.texts))


def judge_results(results: str | Path, labels: str | Path) -> dict[str, Any]:
    """Accuracy of a results file against labels.

    Parameters
    ----------
    results
        ``{file name: plate}`` as `read_plates` gives it, or any other list of names and plates.
    labels
        A label file of any kind, or a folder of labelled plates; see `folder.read_truth`.

    Returns
    -------
    dict
        JSON-able: ``images`` judged, ``missing`` from the results though labelled,
        ``exact_match`` with its ``ci95``, ``character_accuracy``.

    Raises
    ------
    DataError
        When a result has no label, or occurs twice.
    """
    read = read_labels(results, doubles=False)
    if not read:
        raise DataError(f"{results} has no results. Name the file that `lprnet-nb infer` wrote.")
    truth, missing = read_truth(labels, read, results)
    if missing:
        note(
            f"{results} lacks {missing} of {missing + len(read)} labelled pictures; only the "
            f"other {len(read)} are judged."
        )
    texts = list(read.values())
    right = correct(truth, texts)
    return {
        "images": len(read),
        "missing": missing,
        "exact_match": float(right.mean()),
        "ci95": list(wilson(int(right.sum()), len(read))),
        "character_accuracy": character_accuracy(truth, texts),
    }


def write_generated(
    folder: str | Path, count: int, seed: int, forms: tuple[str, ...] | None
) -> Path:
    """Generate plates into a folder: PNG files and ``labels.json``, written last."""
    return write_plates(generate_plates(count, seed, forms=forms or ONE_ROW), folder)


def train_weights(
    output: str | Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    images: str | Path | None,
    classes: str | Path | None,
    start_from: str | Path | None,
    learning_rate: float,
    device: str,
    **options: Any,
) -> Path:
    """Train on generated plates or on a folder of one's own; the checkpoint lies beside `output`.

    Weights that are started from read already: no easy plates first, and no alignment. `options`
    are further ones of `TrainConfig`.
    """
    output = Path(output)
    alphabet = read_alphabet(classes) if classes else PUBLISHED
    warm: dict[str, Any] = (
        {"start_from": start_from, "easy_steps": 0, "align_steps": 0} if start_from else {}
    )
    config = TrainConfig(
        output,
        output.with_suffix(".checkpoint"),
        steps=steps,
        batch=batch,
        seed=seed,
        learning_rate=learning_rate,
        device=device,
        **options,
        **warm,
    )
    plates = load_plates(images, alphabet) if images else None
    keep_memory()
    return train(config, plates, alphabet)
