"""A quantized graph and its float one run as one network, each layer as either of them has it.

A layer is what both graphs have under one name, and every cast of the quantized one (in float it
changes nothing). Of a layer's operands ``v`` the float graph makes ``F(v)``, the quantized one
``Q(q)`` with ``q`` the operands on their integer grids. Its *own error* is ``Q(q) - F(q)``: what
its weights, its requantization and the grid of its result do, the grids of its operands left out. A
network in which every layer is ``F(v)`` plus its own error is the quantized one, to the bit; one
error alone, or all but one, are what a layer costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..errors import EngineError, ParameterError
from .emulator.casts import Dequantize, FloatCast, Quantize
from .emulator.convolution import Convolution
from .emulator.graph import Graph, TensorType
from .emulator.movement import Concat, Constant, Move, Slice
from .emulator.pooling import MaxPool
from .emulator.steps import Input, Requant, Step
from .emulator.torch_executor import round_half_away, round_storage
from .reference import lowered, run

CASTS = (Quantize, Dequantize, FloatCast)
MOVES = (MaxPool, Concat, Slice, Move)  # what leaves values on the scale that they have
FINER = 8  # bits below the result's grid in which a requantization is looked at
ALIKE = 0.9  # correlation of quantized weights with float ones; rounding to 8 bits leaves 0.99


@dataclass(frozen=True)
class Layer:
    """What both graphs compute under one name.

    Parameters
    ----------
    step
        The quantized graph's last step of it; `type` is its result's.
    sources
        Layers that the quantized steps read.
    quantized, floating
        Steps from there to the result; no floating ones for a cast.
    reads
        Layers that the floating steps read, by the names that they have there: a tensor, or its
        cast where the quantized steps read that.
    """

    step: Step
    sources: tuple[str, ...]
    quantized: tuple[Step, ...]
    floating: tuple[Step, ...]
    reads: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def type(self) -> TensorType:
        return self.step.type

    @property
    def moves(self) -> bool:
        """Whether it only moves values, all on one scale."""
        return isinstance(self.step, MOVES)


@dataclass(frozen=True)
class Value:
    """A layer's result: real values, and the integers that stand for them where it has such."""

    real: torch.Tensor
    stored: torch.Tensor | None = None


@dataclass(frozen=True)
class Trial:
    """How to run a pair, beside one of its two plain runs.

    Parameters
    ----------
    errors
        Whether layers have their own errors: True for the quantized network, False for the float.
    given
        Results of layers that are known.
    without
        Layers that have no error all the same.
    in_float
        Layers in float as the compiler leaves them there: who reads them in 8 bits gets their
        results on their grid.
    grids
        Other steps between the integers of a layer's result: one, or ``[C]`` of its channels.
    weights
        Other float weights of a convolution or product, its result on its own grid.
    """

    errors: bool = True
    given: Mapping[str, Value] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    in_float: frozenset[str] = frozenset()
    grids: Mapping[str, np.ndarray | float] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def changed(self) -> set[str]:
        """Layers that differ from the plain run by themselves."""
        return {*self.given, *self.without, *self.in_float, *self.grids, *self.weights}


class Pair:
    """Two graphs of one network.

    Parameters
    ----------
    quantized, reference
        The compiler's graphs in INT8 and in F32, of one chip and batch.

    Raises
    ------
    ParameterError
        When they are not of one network: other inputs, other layers, other weights.
    EngineError
        For an operation that is not known.
    """

    def __init__(self, quantized: Graph, reference: Graph) -> None:
        self.quantized, self.reference = quantized, reference
        shapes = [[g.types[name].shape for name in g.inputs] for g in (quantized, reference)]
        if shapes[0] != shapes[1] or not quantized.types[quantized.input].is_float:
            raise ParameterError(
                f"the quantized graph takes {_inputs(quantized)}, the float one "
                f"{_inputs(reference)}: compile both from one trace, at one batch, "
                "preprocessing not fused."
            )
        steps = {step.name: step for step in lowered(quantized)}
        floats = {step.name: step for step in lowered(reference)}
        self.layers = _layers(steps, floats)
        self.output = quantized.output
        if self.output not in self.layers or self.root(self.output) not in reference.outputs:
            raise ParameterError(
                f"the quantized graph ends in {self.output!r}, the float one in "
                f"{', '.join(reference.outputs)}: they are not of one network and form."
            )
        self._check_weights()

    def root(self, name: str) -> str:
        """The layer that a cast, or a cast of one, changes the representation of."""
        layer = self.layers[name]
        return self.root(layer.sources[0]) if isinstance(layer.step, CASTS) else name

    def _check_weights(self) -> None:
        for layer in self.layers.values():
            if not layer.floating or not isinstance(layer.step, Convolution):
                continue
            other = layer.floating[-1]
            if not isinstance(other, Convolution) or other.weight.shape != layer.step.weight.shape:
                continue
            rows = [s.weight.reshape(len(s.weight), -1).astype(float) for s in (layer.step, other)]
            sizes = np.linalg.norm(rows, axis=2).prod(0)
            alike = (rows[0] * rows[1]).sum(1)[sizes > 0] / sizes[sizes > 0]
            if len(alike) and np.median(alike) < ALIKE:
                raise ParameterError(
                    f"layer {layer.name!r} has other weights in the float graph than in the "
                    "quantized one. Name the weights that the BModel was compiled from."
                )

    def run(
        self, images: np.ndarray, trial: Trial, base: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        """Every layer's value.

        Parameters
        ----------
        images
            What both graphs take, whole batches.
        base
            The plain run with or without errors, as ``trial.errors`` says, on the same images:
            only what differs from it is computed.
        """
        values: dict[str, Value] = {}
        dirty: set[str] = set()
        with torch.inference_mode():
            for name, layer in self.layers.items():
                read = {*layer.sources, *layer.reads.values(), *map(self.root, layer.sources)}
                if base is not None and name not in trial.changed and not dirty & read:
                    values[name] = base[name]
                    continue
                dirty.add(name)
                if isinstance(layer.step, Input):
                    values[name] = Value(torch.from_numpy(images).float())
                else:
                    values[name] = trial.given.get(name) or self._value(layer, values, trial)
        return values

    def _value(self, layer: Layer, values: Mapping[str, Value], trial: Trial) -> Value:
        name = layer.name
        if name in trial.in_float:
            return Value(
                self._float(layer, {k: values[self.root(v)].real for k, v in layer.reads.items()})
            )
        exact = {v: values[v].real for v in {*layer.reads.values(), *layer.sources}}
        if name in trial.weights:
            result = self._float(layer, exact, trial.weights[name])
            return Value(on_grid(result, layer.type, layer.type.scale or 1.0))
        if name in trial.grids:
            return Value(on_grid(self._finely(layer, values), layer.type, trial.grids[name]))
        if not trial.errors or name in trial.without:
            return Value(self._float(layer, exact))
        stored, are_exact = self.stored(layer, values)
        made = self._quantized(layer.quantized, stored)
        if are_exact or trial.in_float:
            return Value(self.real(made, layer.type), made)
        rounded = exact | {k: self.real(v, self.layers[k].type) for k, v in stored.items()}
        change = self.real(made, layer.type) - self._float(layer, rounded)
        return Value(self._float(layer, exact) + change)

    def own(self, layer: Layer, values: Mapping[str, Value]) -> Value:
        """A layer's float result with its own error, of float values of all others."""
        return self._value(layer, values, Trial())

    def _finely(self, layer: Layer, values: Mapping[str, Value]) -> torch.Tensor:
        """A layer's result with the error of its weights, but before it is put on a grid."""
        exact = {v: values[v].real for v in {*layer.reads.values(), *layer.sources}}
        requant = getattr(layer.step, "requant", None)
        if requant is None:
            return self._float(layer, exact)
        stored, _ = self.stored(layer, values)
        step = replace(layer.step, requant=_finer(requant))  # type: ignore[call-arg]
        made = self._quantized((*layer.quantized[:-1], step), stored)
        made = (made - (requant.zero_point << FINER)) * ((layer.type.scale or 1.0) / (1 << FINER))
        rounded = exact | {k: self.real(v, self.layers[k].type) for k, v in stored.items()}
        return self._float(layer, exact) + made - self._float(layer, rounded)

    def fine_error(self, layer: Layer, values: Mapping[str, Value]) -> torch.Tensor:
        """The part of a layer's own error that its weights make, of float values of all others."""
        exact = {v: values[v].real for v in {*layer.reads.values(), *layer.sources}}
        return self._finely(layer, values) - self._float(layer, exact)

    def stored(
        self, layer: Layer, values: Mapping[str, Value]
    ) -> tuple[dict[str, torch.Tensor], bool]:
        """A layer's operands as its quantized steps take them, and whether nothing was rounded."""
        found, exact = {}, True
        for name in layer.sources:
            value, kind = values[name], self.layers[name].type
            if value.stored is not None:
                found[name] = value.stored
            elif kind.is_quantized:
                found[name], exact = to_grid(value.real, kind, kind.scale or 1.0), False
            else:
                found[name] = round_storage(value.real, kind.storage)
        return found, exact

    @staticmethod
    def real(stored: torch.Tensor, kind: TensorType) -> torch.Tensor:
        """What stored values stand for."""
        return (stored - kind.zero) * kind.scale if kind.scale is not None else stored

    def quantized_steps(self, layer: Layer, operands: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What a layer's quantized steps make of stored operands."""
        return self._quantized(layer.quantized, operands)

    def _quantized(
        self, steps: Sequence[Step], operands: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return _run(steps, dict(operands), self.quantized)

    def _float(
        self, layer: Layer, operands: Mapping[str, torch.Tensor], weight: np.ndarray | None = None
    ) -> torch.Tensor:
        """The float steps' result, in the quantized one's shape."""
        if not layer.floating:
            return next(iter(operands[name] for name in layer.reads.values()))
        named = {
            name: _shaped(
                operands[name if name in operands else source], self.reference.types[name]
            )
            for name, source in layer.reads.items()
        }
        steps = layer.floating
        if weight is not None:
            steps = (*steps[:-1], replace(steps[-1], weight=weight))  # type: ignore[call-arg]
        return _shaped(_run(steps, named, self.reference), layer.type)


def on_grid(values: torch.Tensor, kind: TensorType, grid: np.ndarray | float) -> torch.Tensor:
    """Values on a grid with the limits of a type, as real numbers."""
    steps = _along(values, grid)
    return (to_grid(values, kind, grid) - kind.zero) * steps


def to_grid(values: torch.Tensor, kind: TensorType, grid: np.ndarray | float) -> torch.Tensor:
    """The stored integers of real values."""
    whole = round_half_away(values / _along(values, grid)) + kind.zero
    return whole.clamp(*kind.limits)


def _along(values: torch.Tensor, grid: np.ndarray | float) -> torch.Tensor:
    steps = torch.as_tensor(grid, dtype=torch.float32)
    return steps.reshape(-1, *[1] * (values.ndim - 2)) if steps.ndim else steps


def _run(steps: Sequence[Step], values: dict[str, torch.Tensor], graph: Graph) -> torch.Tensor:
    first = next(iter(values.items()))
    runs = len(first[1]) // graph.types[first[0]].shape[0]
    for step in steps:
        values[step.name] = run(step, [values[name] for name in step.inputs], graph, runs)
    return values[steps[-1].name]


def _shaped(values: torch.Tensor, kind: TensorType) -> torch.Tensor:
    return values.reshape(-1, *kind.shape[1:])


def _finer(requant: Requant) -> Requant:
    """The same with `FINER` more bits, and no upper limit; ReLU's lower one stays."""
    wide = 1 << 40
    low = requant.zero_point << FINER if requant.low >= requant.zero_point else -wide
    return replace(
        requant,
        shift=requant.shift - FINER,
        zero_point=requant.zero_point << FINER,
        low=low,
        high=wide,
    )


def _inputs(graph: Graph) -> str:
    kinds = [graph.types[name] for name in graph.inputs]
    return " and ".join(f"{kind.storage} {list(kind.shape)}" for kind in kinds)


def _layers(steps: Mapping[str, Step], floats: Mapping[str, Step]) -> dict[str, Layer]:
    """Layers in execution order."""
    layers: dict[str, Layer] = {}
    roots: dict[str, str] = {}
    both = {
        name
        for name, step in steps.items()
        if name in floats
        and not isinstance(step, Constant)
        and np.prod(step.type.shape) == np.prod(floats[name].type.shape)
    }
    for name, step in steps.items():
        cast = isinstance(step, CASTS) and name not in both and step.inputs[0] in layers
        if name not in both and not cast:
            continue
        inner, sources = _back(name, steps, layers)
        floating, read = ((), ()) if cast else _back(name, floats, both)
        if cast:
            reads = {sources[0]: sources[0]}
        else:
            reads = {one: next((s for s in sources if roots.get(s) == one), one) for one in read}
        unknown = [one for one in reads.values() if one not in layers]
        if unknown:
            raise EngineError(
                f"layer {name!r} reads {unknown[0]!r} in the float graph, which the quantized one "
                "computes later. This pair of graphs cannot be compared."
            )
        roots[name] = roots[sources[0]] if cast else name
        layers[name] = Layer(step, sources, inner, floating, reads)
    return layers


def _back(
    name: str, steps: Mapping[str, Step], known: Mapping[str, Layer] | set[str]
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Steps that lead to one of a name, in order, and the known names that they start from."""
    needed, sources = {name}, dict[str, None]()
    for step in reversed(tuple(steps.values())):
        if step.name in needed:
            for source in step.inputs:
                if source in known:
                    sources[source] = None
                else:
                    needed.add(source)
    inner = tuple(step for step in steps.values() if step.name in needed)
    return inner, tuple(sources)
