"""Three looks at each plate, read as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..decode import Readings, packaged_grammars
from ..decode.views import decode_views, stretched
from ..errors import ParameterError
from .inference import infer_plates


def read_views(
    model: Any, plates: PlateImages, decoder: str | Path, backend: str = "auto", **options: Any
) -> Readings:
    """Read each plate three times, as it is and stretched to either side, as one reading.

    Parameters
    ----------
    model, backend, options
        As `infer_plates` takes them; every view is an inference of its own.
    plates
        The images.
    decoder
        A grammar, packaged or of one's own: see `decode.views.decode_views`.

    Raises
    ------
    ParameterError
        For a decoder without a grammar.
    """
    check_views(decoder)
    logits = [
        infer_plates(model, replace(plates, images=view), backend, **options).logits
        for view in stretched(plates.images)
    ]
    return decode_views(np.stack(logits), model.alphabet, decoder)


def check_views(decoder: str | Path) -> None:
    """Refuse a decoder that has no grammar.

    Raises
    ------
    ParameterError
    """
    if decoder in ("greedy", "beam"):
        raise ParameterError(
            f"views are read with a grammar, which {decoder!r} has not. Choose "
            f"{', '.join(packaged_grammars())} or the path of a grammar file."
        )
