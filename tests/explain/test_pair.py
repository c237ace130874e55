"""Two graphs run as one: it is each of them, and a layer's error is its own."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch

from lprnet_nb.errors import ParameterError
from lprnet_nb.explain import facts
from lprnet_nb.proof.foreign import compiled_example
from lprnet_nb.runtime.emulator import Emulator, load_graph
from lprnet_nb.runtime.emulator.graph import TensorType
from lprnet_nb.runtime.pair import Pair, Trial, Value, on_grid


@pytest.fixture(scope="module")
def fault(compiler):
    return planted.planted(planted.FAULTS["a saturating threshold"])


@pytest.fixture(scope="module")
def pair(fault):
    return Pair(load_graph(fault.quantized), load_graph(fault.reference))


@pytest.fixture(scope="module")
def runs(pair, fault):
    return {e: pair.run(fault.images, Trial(errors=e)) for e in (False, True)}


@pytest.mark.parametrize("errors", [True, False])
def test_a_plain_run_is_the_graphs_own(pair, fault, runs, errors):
    folder = fault.quantized if errors else fault.reference
    mine = runs[errors][pair.output].real.numpy()
    logits = Emulator(folder, arithmetic="interpreter").run(fault.images)
    if errors:
        assert np.array_equal(mine, logits)
    else:
        assert np.allclose(mine, logits, atol=1e-5)


def test_without_any_error_the_quantized_network_is_the_float_one(pair, fault, runs):
    made = pair.run(fault.images, Trial(without=frozenset(pair.layers)), runs[True])
    assert torch.equal(made[pair.output].real, runs[False][pair.output].real)


def test_an_error_alone_is_the_layers_own(pair, runs):
    """Given operands that lie on their grids, it is the whole difference of the two."""
    for layer in pair.layers.values():
        if not layer.floating or not layer.sources:
            continue
        rounded = {
            name: Value(pair.real(stored, pair.layers[name].type))
            for name, stored in pair.stored(layer, runs[False])[0].items()
        }
        own = pair.own(layer, runs[False] | rounded)
        stored, _ = pair.stored(layer, runs[False] | rounded)
        made = pair.real(pair.quantized_steps(layer, stored), layer.type)
        scale = made.abs().max()
        assert torch.allclose(own.real, made, atol=1e-5 * float(scale)), layer.name


def test_what_is_upstream_is_not_run_again(pair, fault, runs):
    last = list(pair.layers)[-2]
    made = pair.run(fault.images, Trial(without=frozenset({last})), runs[True])
    assert [n for n in pair.layers if made[n] is not runs[True][n]] == list(pair.layers)[-2:]


def test_in_float_a_layer_is_put_on_its_grid_for_who_reads_it(pair, fault, runs):
    """So that a saturating threshold stays one, until its reader is in float too."""
    [place] = [n for n, layer in pair.layers.items() if n.startswith("/stack/stack.4")]
    group = facts.groups(pair)[place]
    reference = runs[False][pair.output].real
    noises = [
        float((pair.run(fault.images, trial, runs[True])[pair.output].real - reference).norm())
        for trial in (
            Trial(),
            Trial(in_float=frozenset({place})),
            Trial(in_float=frozenset({place, *group.readers})),
        )
    ]
    assert noises[1] > 0.9 * noises[0] > 5 * noises[2]


def test_a_grid_has_the_limits_of_its_type():
    values = torch.tensor([[[-1.0], [0.26], [9.0]]]).transpose(1, 2)
    kind = TensorType((1, 1, 3), "u8", "f32", 0.5, 0)
    assert on_grid(values, kind, 0.02).flatten().tolist() == pytest.approx([0, 0.26, 5.1])
    signed = TensorType((1, 3, 1), "i8", "f32", 0.5, 0)
    by_channel = on_grid(values.transpose(1, 2), signed, np.array([0.5, 0.25, 0.01]))
    assert by_channel.flatten().tolist() == pytest.approx([-1, 0.25, 1.27])


def test_channels_are_followed_through_slices_and_shuffles(compiler):
    """ShuffleNet's unit splits its channels in halves, and a shuffle mixes them."""
    folder = [
        compiled_example("shufflenet-v2", planted.CHIP, p) / "graph" for p in ("int8", "fp32")
    ]
    pair = Pair(*map(load_graph, folder))
    [group] = {
        id(group): group
        for group in facts.groups(pair).values()
        if "/1/Concat_output_0_Concat" in group.members
    }.values()
    assert len(group.makers) == 2
    for end, first in (("/2/Slice_output_0_Slice", 1), ("/2/Slice_1_output_0_Slice", 13)):
        for position, maker in enumerate(group.makers):
            numbers = np.zeros(24, int)
            numbers[position::2] = np.arange(first, first + 12)
            assert np.array_equal(group.exits[end][maker], numbers)
    kept = [kept for _, kept in facts.dropped(group, pair.layers[group.makers[0]])]
    assert [k.nonzero()[0].tolist() for k in kept] == [list(range(12)), list(range(12, 24))]


def test_graphs_of_two_networks_are_not_compared(pair, fault, compiler):
    other = compiled_example("resnet", planted.CHIP, "fp32") / "graph"
    with pytest.raises(ParameterError, match="takes f32 .1, 3, 32, 100., the float one f32"):
        Pair(load_graph(fault.quantized), load_graph(other))
    graph = load_graph(fault.reference)
    [name] = [n for n, w in graph.weights.items() if w.shape == (48, 48, 3, 3)]
    random = np.random.default_rng(0).standard_normal((48, 48, 3, 3)).astype(np.float32)
    graph.weights[name] = random
    with pytest.raises(ParameterError, match="has other weights in the float graph"):
        Pair(load_graph(fault.quantized), graph)
