"""Roles of LPRNet's layers: the compiler's names change, what a layer does does not."""

from __future__ import annotations

from typing import Any

# In the order in which a reader meets them.
ROLES: tuple[str, ...] = (
    "input",
    "block4",
    "block8",
    "block11",
    "neck",
    "output",
    "context-pool",
    "context-square",
    "context-mean",
    "context-divide",
    "concat",
    "container",
    "final-mean",
)

# Height and width of a convolution's output tell where it stands, in the published form as in the
# forked one (input 24x94, arXiv 1806.10447, table 2).
_CONV_BY_SIZE: dict[tuple[int, ...], str] = {
    (22, 92): "input",
    (20, 90): "block4",
    (16, 18): "neck",
}


def roles_of_layers(layers: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Group the layers of a top-level graph by role.

    Parameters
    ----------
    layers
        ``{"name", "op", "inputs", "shape"}`` in execution order, as `list_layers` writes them.

    Returns
    -------
    dict
        Layer names by role, in the order of `ROLES`; roles without a layer are left out.
    """
    by_name = {layer["name"]: layer for layer in layers}
    role: dict[str, str] = {}
    convolutions_18x44 = 0
    for layer in layers:
        kind, size = layer["op"].removeprefix("top."), tuple(layer["shape"][2:])
        source = by_name.get(layer["inputs"][0], {}) if layer["inputs"] else {}
        if kind == "Conv":
            before = tuple(source.get("shape", ())[2:])
            found = role_of_convolution(before, size, convolutions_18x44)
            convolutions_18x44 += size == (18, 44)
            if found is not None:
                role[layer["name"]] = found
        elif kind == "Scale":
            if source.get("name") in role:
                role[layer["name"]] = role[source["name"]]
        elif kind == "AvgPool":
            role[layer["name"]] = "context-pool"
        elif kind == "Mul":
            role[layer["name"]] = "context-square"
        elif kind == "Reduce":
            squares = role.get(source.get("name", "")) == "context-square"
            role[layer["name"]] = "context-mean" if squares else "final-mean"
        elif kind == "Div":
            role[layer["name"]] = "context-divide"
        elif kind == "Concat":
            role[layer["name"]] = "concat"
    return {
        r: names for r in ROLES if (names := [name for name, value in role.items() if value == r])
    }


def role_of_convolution(
    before: tuple[int, ...], after: tuple[int, ...], earlier: int
) -> str | None:
    """Role of a convolution by the height and width of what goes in and comes out.

    Parameters
    ----------
    earlier
        Convolutions before it whose output is 18x44: the first four are block 8's.
    """
    if after == (18, 44):
        return "block8" if earlier < 4 else "block11"
    if after == (4, 18):
        by_input: dict[tuple[int, ...], str] = {(16, 18): "output", after: "container"}
        return by_input.get(before, "context-pool")
    return _CONV_BY_SIZE.get(after)
