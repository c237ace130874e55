"""The error of each layer of a quantized graph against the float graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.images import preprocess
from ..evaluate.fidelity import cosine, sqnr_db
from ..runtime.emulator import Emulator
from .models import Compiled


def layer_names(item: Compiled) -> dict[str, str]:
    """Readable names of a model's layers by the compiler's, in execution order: ``block4.2``."""
    layers, find_roles = item.layers, item.traced.network.find_roles
    if find_roles is None:  # the compiler's own names are all that there is
        return {name: name for name in Emulator(item.bmodel.exported).names}
    role = {name: r for r, names in find_roles(layers).items() for name in names}
    present = set(Emulator(item.bmodel.exported).names)
    found: dict[str, str] = {}
    count: dict[str, int] = {}
    for layer in layers:
        name = layer["name"]
        if name in present and name in role:
            count[role[name]] = count.get(role[name], 0) + 1
            found[name] = f"{role[name]}.{count[role[name]]}"
    single = {r for r, number in count.items() if number == 1}
    return {
        name: text.rsplit(".", 1)[0] if text.rsplit(".", 1)[0] in single else text
        for name, text in found.items()
    }


def layer_errors(item: Compiled, images: np.ndarray) -> list[dict[str, Any]]:
    """Each layer of an INT8 model against the same layer of the FP32 model of its form and chip.

    Parameters
    ----------
    images
        uint8 BGR ``[N, height, width, 3]``.

    Returns
    -------
    list
        ``{"layer", "cosine", "sqnr_db"}`` in execution order.
    """
    names = layer_names(item)
    exact = Emulator(item.exact().exported)
    quantized = Emulator(item.bmodel.exported)
    names = {name: text for name, text in names.items() if name in exact.names}
    inputs = preprocess(images, item.bmodel.interface.input)
    a, b = exact.tensors(inputs, names), quantized.tensors(inputs, names)
    return [
        {"layer": text, "cosine": cosine(a[name], b[name]), "sqnr_db": sqnr_db(a[name], b[name])}
        for name, text in names.items()
    ]
