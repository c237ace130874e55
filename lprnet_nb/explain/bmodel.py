"""An explanation of a BModel of ours: its float form found, its plates read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import artifact
from ..datasets.folder import list_plates
from ..datasets.images import PlateImages, choose, preprocess
from ..datasets.pictures import load_pictures
from ..decode import decode
from ..decode.top import top as likeliest
from ..errors import DataError, ParameterError
from ..inputs import find_path, note
from ..language import LANGUAGES, together, within
from ..measure.data import weights_for
from ..measure.parameters import check
from ..model.trace import trace_model
from ..toolchain.bmodel import NETWORK, BModel
from ..toolchain.compile import compile_bmodel
from .explanation import TOP, explain

SEED = 0  # of the choice of plates
OWN = ("published", "generated")  # weights that are found by their name


def explain_bmodel(
    model: str | Path,
    places: Sequence[str | Path],
    *,
    float_model: str | Path | None = None,
    network: str | None = None,
    weights: str | None = None,
    classes: str | None = None,
    images: int = 16,
    top: int = TOP,
) -> dict[str, Any]:
    """Explain where an INT8 BModel loses; see `explanation.explain`.

    Parameters
    ----------
    model
        BModel of INT8 with its record beside it, or the record's folder.
    places
        Plates, as for `pictures.load_pictures`; a folder with labels is also judged by them.
    float_model
        The same network compiled in fp32 for the same chip and batch; made from the weights
        otherwise.
    network
        The user's network that the BModel was compiled from.
    weights, classes
        What LPRNet's was compiled from; by default what its record names, where that is
        "published" or "generated".
    images
        How many plates, spread at random over the places; 0 for all.
    top
        How many layers to find cures for.

    Returns
    -------
    dict
        As `explanation.explain`, with ``model``, ``strategy`` and ``plates``.

    Raises
    ------
    ParameterError
        When the BModel is a float one, its preprocessing is fused, or its weights are not named.
    DataError, EngineError, ToolchainError
        When something cannot be read, run or compiled.
    """
    quantized = BModel.load(find_path(model))
    if quantized.precision != "int8" or quantized.input_dtype != "float32":
        raise ParameterError(
            f"{model} is a BModel of {quantized.precision} that takes {quantized.input_dtype}: "
            "there is something to explain in INT8 models that take float32 only."
        )
    exact = _float_model(quantized, float_model, network, weights, classes)
    plates = _plates(places, quantized)
    if 0 < images < len(plates):
        plates = plates.take(np.sort(choose(len(plates), images, SEED)))
    return {
        "model": str(model),
        "strategy": quantized.strategy,
        "plates": plates.name,
        **explained(quantized, exact, plates, top),
    }


def explained(
    quantized: BModel, exact: BModel, plates: PlateImages, top: int = TOP
) -> dict[str, Any]:
    """What `explanation.explain` says of a BModel and its float one, kept in the cache.

    Raises
    ------
    ParameterError, EngineError
        As `explanation.explain`.
    """
    interface, alphabet = quantized.interface, quantized.alphabet
    reader = decode if interface.kind == "ctc" else likeliest

    def build(folder: Path) -> None:
        found = explain(
            quantized.exported,
            exact.exported,
            preprocess(plates.images, interface.input),
            read=lambda made: reader(interface.arranged(made), alphabet).texts,
            labels=plates.labels,
            top=top,
        )
        said = {language: within(found, language) for language in LANGUAGES}
        (folder / "explained.json").write_text(json.dumps(said), "utf8")

    inputs = {
        "int8": quantized.digest,
        "float": exact.digest,
        "plates": plates.digest,
        "classes": alphabet.listed,
        "blank": alphabet.blank,
        "top": top,
    }
    folder = artifact("explained", inputs, build)
    return together(json.loads((folder / "explained.json").read_text("utf8")))


def _float_model(
    quantized: BModel,
    given: str | Path | None,
    network: str | None,
    weights: str | None,
    classes: str | None,
) -> BModel:
    if given is not None:
        model = BModel.load(find_path(given))
        if (model.precision, model.chip) != ("fp32", quantized.chip):
            raise ParameterError(
                f"{given} is a BModel of {model.precision} for {model.chip}; the float side of "
                f"{quantized.path} is one of fp32 for {quantized.chip}."
            )
        return model
    own = quantized.network != NETWORK
    name = weights or (quantized.weights if quantized.weights in OWN and not own else None)
    if own and network is None:
        raise ParameterError(
            f"{quantized.path} was compiled from network {quantized.network!r}. Name its file in "
            "--network, or an fp32 BModel of it in --float."
        )
    if not own and name is None:
        raise ParameterError(
            f"{quantized.path} was compiled from weights {quantized.weights!r}. Name their file in "
            "--weights, and their class list in --classes, or an fp32 BModel of them in --float."
        )
    asked = {"NETWORK": network, "WEIGHTS": None if own else name, "CLASSES": classes}
    loaded = weights_for(check(**{key: value for key, value in asked.items() if value}))
    if loaded.of.name != quantized.network:
        raise ParameterError(
            f"{quantized.path} was compiled from network {quantized.network!r}, and --network "
            f"names {loaded.of.name!r}."
        )
    traced = trace_model(loaded, quantized.batch, quantized.batch_mean, quantized.form)
    return compile_bmodel(traced, quantized.chip, "fp32")


def _plates(places: Sequence[str | Path], model: BModel) -> PlateImages:
    """The plates of some places, with labels where one folder has them."""
    taken = model.interface.input
    size = taken.height, taken.width
    if model.interface.kind == "ctc" and len(places) == 1 and find_path(places[0]).is_dir():
        try:
            return replace(list_plates(places[0], model.alphabet), size=size).read()
        except DataError as error:
            plates = load_pictures(places, size)
            note(f"{error} Readings are compared with those of the float network.")
            return plates
    return load_pictures(places, size)
