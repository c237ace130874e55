"""BModels against the float network by their logits, which needs no labels and no CTC."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..decode import decode
from ..errors import UnlabelledError
from ..evaluate.accuracy import exact_match
from ..evaluate.fidelity import cosine, same_top1, sqnr_db
from ..inputs import note
from ..language import phrase
from ..work import scheduler
from ..work.pieces import float_run, model_run
from .data import Data, datasets_for
from .models import planned
from .parameters import Parameters


def compare_models(parameters: Parameters) -> dict[str, Any]:
    """Run the float network and every model that the parameters name over the same pictures.

    Returns
    -------
    dict
        JSON-able: ``network``, ``images``, and ``rows`` with ``id``, ``cosine`` (least of an
        image), ``sqnr_db``, ``largest_difference`` of a logit, ``same_top1`` (share of time steps
        whose likeliest class is float's); for CTC also ``same_text`` and, where there are labels,
        ``exact_match``, of the float network too.

    Raises
    ------
    DataError, ParameterError, ToolchainError, EngineError
        As the steps of it raise them.
    """
    data = _data(parameters)
    plates, backend = data.plates, parameters.backend
    models = planned(parameters, data)
    floats = {
        batch: float_run(data.weights, plates, batch, parameters.batch_mean)
        for batch in parameters.batches
    }
    runs = [model_run(item.id, item.model, plates, backend, item.batch) for item in models]
    pieces = [piece for run in (*floats.values(), *runs) for piece in run.shards]
    done = scheduler.make(pieces, phrase("comparing"))
    rows = []
    for run in floats.values():
        rows.append({"id": run.identity, **_read(run.read(done).logits, data, plates)})
    for item, run in zip(models, runs):
        wanted, found = floats[item.batch].read(done).logits, run.read(done).logits
        rows.append(
            {"id": item.id, **_against(wanted, found), **_read(found, data, plates, wanted)}
        )
    return {
        "network": data.weights.of.name,
        "images": len(plates),
        "backend": backend,
        "rows": rows,
    }


def _data(parameters: Parameters) -> Data:
    """Plates with labels where there are some; a folder that has none is compared all the same."""
    try:
        return datasets_for(parameters, labels=parameters.data not in ("", "auto"))
    except UnlabelledError:
        note(f"{parameters.data} has no labels: nothing is said of which texts are right.")
        return datasets_for(parameters, labels=False)


def _against(wanted: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    noise = sqnr_db(wanted, found)
    return {
        "cosine": round(float(cosine(wanted, found, by_image=True).min()), 6),
        "sqnr_db": round(noise, 2) if np.isfinite(noise) else None,
        "largest_difference": float(np.abs(wanted - found).max()),
        "same_top1": same_top1(wanted, found),
    }


def _read(
    logits: np.ndarray, data: Data, plates: PlateImages, wanted: np.ndarray | None = None
) -> dict[str, Any]:
    """What is read of CTC logits, against the float network's texts and against the labels."""
    if data.weights.of.interface.kind != "ctc":
        return {}
    alphabet = data.weights.alphabet
    texts = decode(logits, alphabet).texts
    said: dict[str, Any] = {}
    if wanted is not None:
        same = [a == b for a, b in zip(texts, decode(wanted, alphabet).texts)]
        said["same_text"] = float(np.mean(same))
    if plates.labels is not None:
        said["exact_match"] = exact_match(plates.labels, texts)
    return said
