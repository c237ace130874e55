"""The single steps of the command line and the users' scripts, under the file names they know."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, ParameterError
from .files import atomic_write
from .places import data_dir

if TYPE_CHECKING:
    from .measure.parameters import Parameters
    from .runtime.reading import Read
    from .toolchain.bmodel import BModel


def gen_traces(parameters: Parameters) -> list[Path]:
    """Trace for each batch size into ``data/models/torch/``: batch 1 under the published name."""
    from .measure.data import weights_for
    from .model.trace import trace_model

    weights = weights_for(parameters)
    folder = data_dir() / "models" / "torch"
    written = []
    for batch in parameters.batches:
        traced = trace_model(weights, batch, parameters.batch_mean)
        if weights.of.onnx:
            path = folder.with_name("onnx") / f"{traced.network.name}_{batch}b.onnx"
            written.append(atomic_write(path, traced.onnx.read_bytes()))
            continue
        stem = "LPRNet_model_trace" + (f"_{batch}b" if batch > 1 else "")
        written.append(atomic_write(folder / f"{stem}.pt", traced.path.read_bytes()))
        written.append(atomic_write(folder / f"{stem}.onnx", traced.onnx.read_bytes()))
    return written


def gen_bmodels(parameters: Parameters) -> list[Path]:
    """Compile into ``data/models/<CHIP>/<network>_<precision>_<batch>b.bmodel``, each with record.

    Raises
    ------
    ParameterError
        When two strategies would write the same file.
    """
    from .measure.data import datasets_for
    from .measure.models import compile_all
    from .toolchain.packaged import TOOLCHAIN as PACKAGED

    if parameters.toolchain == PACKAGED:
        raise ParameterError(
            "what is packaged holds no BModels, only their quantized graphs: TOOLCHAIN='mlir' "
            "compiles them."
        )
    if len(parameters.strategies) != 1:
        raise ParameterError("one strategy at a time: both would write the same int8 BModel.")
    if len(parameters.tpu_mlir) > 1:
        raise ParameterError("one release at a time: both would write the same BModels.")
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
    from .measure.data import datasets_for
    from .model.trace import trace_model
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
    from .toolchain.bmodel import BModel
    from .toolchain.nntc.compile import combine_bmodels

    return _publish(combine_bmodels([BModel.load(path) for path in bmodels]), Path(output))


def _publish(bmodel: BModel, target: Path) -> Path:
    # A BModel with another's record beside it is refused on loading (SHA-256), so a stop between
    # these two lines is noticed.
    atomic_write(target, bmodel.path.read_bytes())
    bmodel.save_beside(target)
    return target


def read_plates(
    model: BModel,
    images: Sequence[str | Path],
    backend: str = "auto",
    decoder: str = "greedy",
    *,
    views: bool = False,
    trust: bool = False,
    reject: float | None = None,
    margin: str = "none",
) -> tuple[Read, int]:
    """Read pictures, folders or lists of them with a BModel, and leave out what is in doubt.

    Parameters
    ----------
    model, images, backend, decoder, views, trust
        See `runtime.reading.read_pictures`.
    reject
        Least confidence of a reading that is kept; all are by default.
    margin
        "none", "auto" or ``X/Y``, see `datasets.margins.parse_margin`.

    Returns
    -------
    tuple
        What was read, and how many readings were left out; a note says so.

    Raises
    ------
    DataError
        When an image is unreadable.
    ParameterError
        When `reject` is no share.
    """
    from .datasets.margins import parse_margin
    from .inputs import note
    from .runtime.reading import read_pictures, said_of

    if reject is not None and not 0 < reject <= 1:
        raise ParameterError(f"--reject {reject}: give a level above 0 and at most 1, such as 0.9.")
    read = read_pictures(
        model, images, backend, decoder, views=views, trust=trust, margin=parse_margin(margin)
    )
    if reject is None:
        return read, 0
    kept = read.confidence >= reject
    left_out = int((~kept).sum())
    note(
        f"{left_out} of {len(read)} readings are left out, whose confidence is below {reject:g} "
        f"({said_of(read.calibration)})."
    )
    return read.take(kept), left_out


def judge_results(
    results: str | Path,
    labels: str | Path,
    *,
    skip_unknown: bool = False,
    classes: str | Path | None = None,
) -> dict[str, Any]:
    """Accuracy of a results file against labels.

    Parameters
    ----------
    results
        ``{file name: plate}`` as `lprnet-nb infer` writes it, with details or without, or any other
        list of names and plates.
    labels
        A label file of any kind, or a folder of labelled plates; see `folder.read_truth`.
    skip_unknown
        Leave out the plates whose labels have characters that are not in the class list.
    classes
        That class list; the published one by default.

    Returns
    -------
    dict
        JSON-able: ``images`` judged, ``missing`` from the results though labelled,
        ``exact_match`` with its ``ci95``, ``character_accuracy``; with `skip_unknown` also
        ``skipped``, how many were left out.

    Raises
    ------
    DataError
        When a result has no label, or occurs twice.
    """
    from .datasets.alphabet import PUBLISHED, read_alphabet
    from .datasets.folder import read_truth
    from .datasets.labels import note_skipped, read_labels, unwritable
    from .evaluate.accuracy import character_accuracy, correct
    from .evaluate.intervals import wilson
    from .inputs import note

    read = read_labels(results, doubles=False)
    if not read:
        raise DataError(f"{results} has no results. Name the file that `lprnet-nb infer` wrote.")
    truth, missing = read_truth(labels, read, results)
    if missing:
        note(
            f"{results} lacks {missing} of {missing + len(read)} labelled pictures; only the "
            f"other {len(read)} are judged."
        )
    known = dict(zip(read, truth))
    if skip_unknown:
        alphabet = read_alphabet(classes) if classes else PUBLISHED
        unknown = unwritable(list(known), truth, alphabet)
        note_skipped(Path(labels), unknown, len(known) - len(unknown))
        known = {name: text for name, text in known.items() if name not in unknown}
    truth, texts = list(known.values()), [read[name] for name in known]
    right = correct(truth, texts)
    return {
        "images": len(texts),
        "missing": missing,
        **({"skipped": len(read) - len(texts)} if skip_unknown else {}),
        "exact_match": float(right.mean()),
        "ci95": list(wilson(int(right.sum()), len(texts))),
        "character_accuracy": character_accuracy(truth, texts),
    }


def write_generated(
    folder: str | Path, count: int, seed: int, forms: tuple[str, ...] | None
) -> Path:
    """Generate plates into a folder: PNG files and ``labels.json``, written last."""
    from .datasets.generate import ONE_ROW, generate_plates, write_plates

    return write_plates(generate_plates(count, seed, forms=forms or ONE_ROW), folder)


def write_notebooks(folder: str | Path, language: str, network: str | None = None) -> list[Path]:
    """Write the notebooks with prose and ``LANGUAGE`` of a language into a folder.

    For a user's `network`, those that take one, with its ``NETWORK`` and without what is said of
    LPRNet alone.

    Raises
    ------
    ParameterError
        For an unknown language, or where the folder has a file of a notebook's name.
    """
    from .files import make_folder, read_bytes
    from .inputs import find_path
    from .language import known, leave_out_lprnet, translate_cells
    from .places import repository

    known(language)
    sources = sorted((repository() / "notebooks").glob("*.ipynb"))
    said = {"LANGUAGE": language}
    if network is not None:
        said["NETWORK"] = str(find_path(network))
        sources = [path for path in sources if b'"NETWORK = ' in read_bytes(path)]
    targets = [Path(folder) / source.name for source in sources]
    for target in targets:
        if target.exists():
            raise ParameterError(f"{target} is there already. Name a new folder for the notebooks.")
    make_folder(Path(folder))
    for source, target in zip(sources, targets):
        notebook = json.loads(read_bytes(source))
        if network is not None:
            leave_out_lprnet(notebook)
        translate_cells(notebook, language)
        for cell in notebook["cells"]:
            if "parameters" in cell["metadata"].get("tags", ()):
                lines = "".join(cell["source"])
                for name, value in said.items():
                    line = f"{name} = {json.dumps(value, ensure_ascii=False)}"
                    found = re.search(rf'^{name} = "\w+"', lines, re.M)
                    lines = lines.replace(found[0], line, 1) if found else lines
                cell["source"] = lines
        atomic_write(target, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    return targets


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
    network: str | Path | None = None,
    **options: Any,
) -> Path:
    """Train on generated plates or on a folder of one's own; the checkpoint lies beside `output`.

    Weights that are started from read already: no easy plates first, and no alignment. `options`
    are further ones of `TrainConfig`.
    """
    from .datasets.alphabet import PUBLISHED, read_alphabet
    from .datasets.folder import list_plates
    from .memory import keep_memory
    from .model.train import TrainConfig, train
    from .model.trainee import lprnet, read_trainee

    output = Path(output)
    if network and classes:
        raise ParameterError("--classes does not go with --network: its TOML lists the classes.")
    trainee = (
        read_trainee(network)
        if network
        else lprnet(read_alphabet(classes) if classes else PUBLISHED)
    )
    alphabet = trainee.alphabet
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
    plates = None
    if images:
        taken = trainee.interface.input
        plates = replace(list_plates(images, alphabet), size=(taken.height, taken.width)).read()
    keep_memory()
    return train(config, plates, trainee)
