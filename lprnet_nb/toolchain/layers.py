"""Layers of a compiled network by what they are, whatever names a compiler gives them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from ..errors import ToolchainError
from ..model.lprnet import LPRNET
from ..model.network import Network

ENDS = ("first", "last")  # convolution or matrix product of a network, with its scale
BY = ("name", "op")  # "name:*head*" takes layers by the compiler's name, "op:Softmax" by operation
_PRODUCTS = ("Conv", "Deconv", "MatMul")


def is_general(role: str) -> bool:
    """Whether a role is one that any network may have: an end, or a pattern after ``name:``."""
    kind, colon, pattern = role.partition(":")
    return role in ENDS or (kind in BY and bool(colon and pattern))


def layers_of_roles(
    layers: list[dict[str, Any]], roles: tuple[str, ...], network: Network = LPRNET
) -> list[str]:
    """Layer names of some roles, in execution order.

    Parameters
    ----------
    layers
        ``{"name", "op", "inputs", "shape"}`` in execution order, as `list_layers` writes them.
    roles
        Those that the network's own `find_roles` knows, or such that are for any network:
        "first", "last", "name:PATTERN", "op:PATTERN" with ``*`` and ``?``.

    Raises
    ------
    ToolchainError
        When this network has no layer of a role.
    """
    found = network.find_roles(layers) if network.find_roles else {}
    chosen: set[str] = set()
    for role in roles:
        names = found.get(role) or _general(layers, role)
        if not names:
            known = ", ".join([*found, *ENDS, "name:PATTERN", "op:PATTERN"])
            raise ToolchainError(
                f"{network.name} has no layer of role {role!r}; it has {known}. Its layers: "
                f"{', '.join(layer['name'] for layer in layers[1:4])}, …"
            )
        chosen.update(names)
    return [layer["name"] for layer in layers if layer["name"] in chosen]


def grouped(layers: list[dict[str, Any]], network: Network = LPRNET) -> dict[str, list[str]]:
    """Layer names by role where the network has roles, else by operation."""
    if network.find_roles:
        return network.find_roles(layers)
    kinds = dict.fromkeys(_kind(layer) for layer in layers)
    return {k: [layer["name"] for layer in layers if _kind(layer) == k] for k in kinds}


def _general(layers: list[dict[str, Any]], role: str) -> list[str]:
    kind, _, pattern = role.partition(":")
    if role in ENDS:
        products = [layer for layer in layers if _kind(layer) in _PRODUCTS]
        return _with_scale(layers, products[0 if role == "first" else -1]) if products else []
    if kind == "name":
        return [layer["name"] for layer in layers if fnmatchcase(layer["name"], pattern)]
    if kind == "op":
        return [layer["name"] for layer in layers if fnmatchcase(_kind(layer), pattern)]
    return []


def _with_scale(layers: list[dict[str, Any]], layer: dict[str, Any]) -> list[str]:
    """A product and the batch norm after it, which the compiler folds into it."""
    after = [
        other["name"]
        for other in layers
        if _kind(other) == "Scale" and layer["name"] in other["inputs"][:1]
    ]
    return [layer["name"], *after]


def _kind(layer: dict[str, Any]) -> str:
    return layer["op"].removeprefix("top.")
