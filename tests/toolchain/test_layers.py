"""Roles of layers: by what they do, whatever the compiler calls them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lprnet_nb.errors import ParameterError, ToolchainError
from lprnet_nb.model.lprnet import LPRNET
from lprnet_nb.model.lprnet.roles import ROLES, roles_of_layers
from lprnet_nb.toolchain.layers import layers_of_roles
from lprnet_nb.toolchain.strategies import make_strategy


def layer(name, op, inputs, *shape):
    return {"name": name, "op": f"top.{op}", "inputs": list(inputs), "shape": [1, *shape]}


def network():
    """The published form as the compiler's top-level graph has it, layers named a, b, c…"""
    made = []

    def add(op, inputs, *shape):
        made.append(layer(f"l{len(made)}", op, inputs, *shape))
        return made[-1]["name"]

    def conv(source, channels, *size):
        return add("Scale", [add("Conv", [source], channels, *size)], channels, *size)

    image = add("Input", [], 3, 24, 94)
    first = conv(image, 64, 22, 92)
    second = conv(add("MaxPool", [first], 64, 20, 90), 128, 20, 90)
    x = add("MaxPool", [second], 64, 18, 44)
    for channels in (64, 64, 64, 256, 64, 64, 64):
        x = add("Conv", [x], channels, 18, 44)
    third = conv(x, 256, 18, 44)
    neck = conv(add("MaxPool", [third], 64, 16, 21), 256, 16, 18)
    fourth = conv(neck, 68, 4, 18)
    maps = [
        add("AvgPool", [source], channels, 4, 18)
        for source, channels in ((first, 64), (second, 128), (third, 256))
    ] + [fourth]
    divided = [
        add("Div", [m, add("Reduce", [add("Mul", [m, m], 64, 4, 18)], 1, 1, 1)], 64, 4, 18)
        for m in maps
    ]
    logits = add("Conv", [add("Concat", divided, 516, 4, 18)], 68, 4, 18)
    add("Reduce", [logits], 68, 18)
    return made


def test_every_role_is_found():
    found = roles_of_layers(network())
    assert tuple(found) == ROLES
    assert {role: len(names) for role, names in found.items()} == {
        "input": 2,
        "block4": 2,
        "block8": 4,
        "block11": 5,
        "neck": 2,
        "output": 2,
        "context-pool": 3,
        "context-square": 4,
        "context-mean": 4,
        "context-divide": 4,
        "concat": 1,
        "container": 1,
        "final-mean": 1,
    }


def test_pools_written_as_convolutions_are_still_pools():
    layers = [
        {**part, "op": "top.Conv"} if part["op"] == "top.AvgPool" else part for part in network()
    ]
    assert roles_of_layers(layers) == roles_of_layers(network())


def test_layers_come_in_execution_order():
    layers = network()
    names = layers_of_roles(layers, ("output", "input"))
    assert names == [part["name"] for part in layers if part["name"] in set(names)]
    assert len(names) == 4 and names[0] == "l1"


def test_role_that_the_network_has_not():
    with pytest.raises(ToolchainError, match="no layer of role 'concat'"):
        layers_of_roles([part for part in network() if part["op"] != "top.Concat"], ("concat",))


def test_any_networks_layers_are_found_by_end_name_and_operation():
    layers = network()
    stranger = replace(LPRNET, name="mine", find_roles=None)
    convolutions = [part["name"] for part in layers if part["op"] == "top.Conv"]
    first, last = convolutions[0], convolutions[-1]
    assert layers_of_roles(layers, ("first",), stranger) == [first, "l2"]  # its batch norm too
    assert layers_of_roles(layers, ("last",), stranger) == [last]
    assert layers_of_roles(layers, ("name:l2",), stranger) == ["l2"]
    assert layers_of_roles(layers, ("name:l1?", "op:Conc*"), stranger)[-1].startswith("l")
    assert layers_of_roles(layers, ("op:Conv",), stranger) == convolutions
    for role in ("input", "name:none*", "op:Gemm"):
        with pytest.raises(ToolchainError, match="mine has no layer of role"):
            layers_of_roles(layers, (role,), stranger)


def test_a_strategy_names_layers_of_any_network():
    made = make_strategy(name="mine", float_roles=("op:Div", "last", "container", "input", "first"))
    assert made.float_roles == ("input", "container", "first", "last", "op:Div")
    for wrong in ("name:", "size:3", "top"):
        with pytest.raises(ParameterError, match="is not known"):
            make_strategy(name="mine", float_roles=(wrong,))
