"""Thresholds, weight scales and rounding that are learnt on calibration images, without labels.

What is learnt reaches the compiler through what it reads: the calibration table, and the network's
weights beside it. The compiler's graph is then read again, and holds what was learnt or nothing is
made of it.

Thresholds: a compiler chooses each from the values of one tensor. Here all are tuned together, by
gradients through the rounding (learnt step sizes, arXiv 1902.08153), so that the network in INT8
says what it says in float (`model.qat.distillation_loss`).

Rounding: a weight may go to either of its neighbours on the grid. Layer by layer, on the layer's
inputs as they are in INT8, weights are rounded one after the other, and what rounding one does to
the layer's result is taken up by those that follow (arXiv 2210.17323); biases take up the mean. The
largest weight of a channel is rounded to the nearest, so that the compiler finds the same grid.

Weight scales: of each output channel the one of least squared error, in place of max / 127, by the
table's section ``#weight_scale``, which TPU-MLIR 1.30.2 reads and does not document. The BM1684 has
one power of two for a layer, and no such scales.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .cache import array_digest, artifact, digest, file_digest
from .datasets.images import preprocess
from .errors import ParameterError, ToolchainError
from .model.qat import distillation_loss
from .model.trace import TracedModel
from .runtime.emulator import load_graph
from .runtime.emulator.convolution import Convolution
from .runtime.emulator.graph import Graph
from .runtime.emulator.pooling import Mean
from .runtime.emulator.steps import Input
from .runtime.pair import Layer, Pair
from .runtime.reference import run
from .sources import code_digest
from .toolchain.compile import CalibrationTable, TopGraph, compile_bmodel, float_lines
from .toolchain.lowering import Quantizer
from .toolchain.strategies import Strategy

# Chosen on the calibration images of one draw, by what others of them lose; no labels were read.
STEPS, BATCH, RATE = 12, 8, 0.03
START = 1.3  # times a threshold of least squared error: where learning starts
TEMPERATURE = 16.0  # as of `model.qat.QatConfig`
ROUNDED_ON = 32  # images
PLACES = 8192  # of a layer's results that rounding looks at, at most
TOGETHER = 1024  # weights of a channel among which errors are passed on
DAMPING = 0.01  # of the mean square of an input, added to each
SCALES = np.linspace(0.6, 1.0, 41)  # of max / 127: those that are tried
LARGEST = 127
NEAR = 1e-4  # relative: two thresholds that are one


def learnt_table(
    quantizer: Quantizer,
    traced: TracedModel,
    graph: TopGraph,
    images: np.ndarray,
    chip: str,
    strategy: Strategy,
    table: CalibrationTable,
) -> CalibrationTable:
    """The table of a strategy with what it learns; made once.

    Parameters
    ----------
    quantizer
        Lowers what was learnt.
    traced, graph
        The network at batch 1, and its top-level graph.
    images
        Calibration images, uint8 BGR ``[N, height, width, 3]``.
    chip, strategy
        On whose grid. A strategy that learns nothing gets its table back.
    table
        Calibrated thresholds: where to start.

    Returns
    -------
    CalibrationTable
        Rewritten weights lie beside it.

    Raises
    ------
    ParameterError
        When the chip has no scale for each channel, or layers stay in float.
    ToolchainError
        When the compiler does not make of it what was learnt.
    """
    if not strategy.learns:
        return table
    _check_learns(chip, strategy)
    if strategy.thresholds == "learnt":
        table = _made("thresholds", quantizer, traced, graph, images, chip, strategy, table)
    if strategy.weights == "max":
        return table
    return _made(strategy.weights, quantizer, traced, graph, images, chip, strategy, table)


def _check_learns(chip: str, strategy: Strategy) -> None:
    if strategy.weights == "mse" and chip == "BM1684":
        raise ParameterError(
            f"strategy {strategy.name!r} gives weights a scale for each channel, and BM1684 has "
            "one power of two for a layer. Choose weights 'learnt', or another chip."
        )


def _made(
    what: str,
    quantizer: Quantizer,
    traced: TracedModel,
    graph: TopGraph,
    images: np.ndarray,
    chip: str,
    strategy: Strategy,
    table: CalibrationTable,
) -> CalibrationTable:
    inputs = {
        "code": code_digest("learnt"),
        "what": what,
        "top": graph.digest,
        "table": table.digest,
        "images": array_digest(images),
        "chip": chip,
        "float": float_lines(graph, chip, strategy, table),
        "torch": torch.__version__,
    }

    def build(folder: Path) -> None:
        lowered = quantizer.lower(graph, chip, strategy, table)
        floats = compile_bmodel(traced, chip, "fp32").exported
        network = Simulated(Pair(load_graph(lowered), load_graph(floats)))
        shutil.copy(table.path, folder / "table")
        taken = preprocess(images, graph.network.input)
        grids: dict[str, float] = {}
        wanted: dict[str, np.ndarray] = {}
        if what == "thresholds":
            known = {name: line[0] for name, line in table.thresholds().items()}
            learnt = learn_thresholds(network, taken, known)
            _write_thresholds(folder / "table", learnt)
            grids = _grids(network, known, learnt)
        elif what == "mse":
            scales = {name: least_squares_scales(w) for name, w in network.weights.items()}
            _write_scales(folder / "table", graph, scales)
            wanted = {name: on_scales(network.weights[name], scales[name]) for name in scales}
        else:
            rounded = learn_rounding(network, taken[:ROUNDED_ON])
            _write_weights(folder, graph, network, rounded)
            wanted = {name: whole for name, (whole, _) in rounded.items()}
        made = _table(folder, table, inputs)
        found = load_graph(quantizer.lower(graph, chip, strategy, made))
        _check_holds(found, grids, wanted, made.path)

    return _table(artifact("learnt", inputs, build), table, inputs)


def _table(folder: Path, start: CalibrationTable, inputs: dict[str, Any]) -> CalibrationTable:
    """The table of a folder; its digest is of what was learnt, whatever gradients made of it."""
    weights = [file_digest(path) for path in sorted(folder.glob("*_weight.npz"))]
    made = {**inputs, "table": file_digest(folder / "table"), "weights": weights}
    return CalibrationTable(folder / "table", start.float_table, digest(made), start.release)


class Simulated:
    """A network in float whose results are put on the quantized one's grids, with gradients.

    Parameters
    ----------
    pair
        The two graphs.

    Notes
    -----
    `weights` and `biases` are those of the convolutions that both graphs have, in float, batch
    norms folded in where the compiler folds them.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.weights: dict[str, np.ndarray] = {}
        self.biases: dict[str, np.ndarray] = {}
        for name, layer in pair.layers.items():
            step, floating = layer.step, layer.floating
            if len(floating) != 1 or not isinstance(last := floating[0], Convolution):
                continue
            if not isinstance(step, Convolution) or step.requant is None or any(step.inserts):
                continue
            if step.group == 1 and step.weight.shape == last.weight.shape:
                self.weights[name] = np.asarray(last.weight, np.float32)
                zero = np.zeros(len(last.weight))
                self.biases[name] = np.asarray(zero if last.bias is None else last.bias, np.float32)

    def step_of_weights(self, name: str) -> np.ndarray:
        """Value of one unit of a convolution's weights, float64 ``[channels]``."""
        layer = self.pair.layers[name]
        step, source = layer.step, self.pair.layers[layer.sources[0]].type
        assert isinstance(step, Convolution) and step.requant is not None
        factor = step.requant.multiplier / 2.0**step.requant.shift
        units = factor * (layer.type.scale or 1.0) / (source.scale or 1.0)
        return np.broadcast_to(units, len(step.weight))

    def run(
        self,
        images: torch.Tensor,
        factors: Mapping[float, torch.Tensor] | None = None,
        *,
        quantized: bool = True,
    ) -> torch.Tensor:
        """The output of preprocessed images; see `values`."""
        values = self.values(images, factors, quantized=quantized)
        return next(value for layer, value in values if layer.name == self.pair.output)

    def values(
        self,
        images: torch.Tensor,
        factors: Mapping[float, torch.Tensor] | None = None,
        *,
        quantized: bool = True,
        weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> Iterator[tuple[Layer, torch.Tensor]]:
        """Each layer with its real values, in order.

        Parameters
        ----------
        factors
            Of thresholds, by `threshold`.
        quantized
            Whether results are put on their grids.
        weights
            Weights and biases in place of the float ones; read when a layer's turn has come.
        """
        made: dict[str, torch.Tensor] = {}
        for name, layer in self.pair.layers.items():
            if isinstance(layer.step, Input):
                value = images
            elif not layer.floating:
                value = made[layer.sources[0]]
            else:
                value = self._float(layer, made, (weights or {}).get(name))
            if quantized and layer.type.is_quantized and not layer.moves:
                factor = (factors or {}).get(threshold(layer), torch.ones(()))
                value = _OnGrid.apply(value, (layer.type.scale or 1.0) * factor, *layer.type.limits)
            made[name] = value
            yield layer, value

    def _float(
        self,
        layer: Layer,
        made: Mapping[str, torch.Tensor],
        weights: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        graph = self.pair.reference
        known = {
            name: made[source].reshape(-1, *graph.types[name].shape[1:])
            for name, source in layer.reads.items()
        }
        for step in layer.floating:
            operands = [known[name] for name in step.inputs]
            if isinstance(step, Mean):
                known[step.name] = _mean(step, operands[0])
            elif weights is not None and isinstance(step, Convolution):
                known[step.name] = _convolved(step, operands[0], *weights)
            else:
                known[step.name] = run(step, operands, graph, len(operands[0]))
        return known[layer.floating[-1].name].reshape(-1, *layer.type.shape[1:])


class _OnGrid(torch.autograd.Function):
    """Half up, then clipped, in real values; gradients as of learnt step sizes (1902.08153)."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, step: torch.Tensor, low: int, high: int
    ) -> torch.Tensor:
        ctx.save_for_backward(values, step)
        ctx.limits = low, high
        return (values / step + 0.5).floor_().clamp_(low, high) * step

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, step = ctx.saved_tensors
        low, high = ctx.limits
        units = values / step
        whole = (units + 0.5).floor().clamp_(low, high)
        passed = torch.ops.aten.hardtanh_backward(gradient, units, low - 0.5, high + 0.5)
        # Of a value inside its limits the error of rounding counts, of one beyond them the limit.
        return passed, (gradient * whole - passed * units).sum(), None, None


def _mean(step: Mean, x: torch.Tensor) -> torch.Tensor:
    """A mean without the chip's order of the sums, which has no gradients; batch 1."""
    made = x.mean([axis for axis in step.axes if axis], keepdim=True)
    return made if step.keep_dims else made.reshape(len(x), *step.type.shape[1:])


def _convolved(
    step: Convolution, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    top, left, bottom, right = step.pads
    padded = functional.pad(x, (left, right, top, bottom))
    made = functional.conv2d(padded, weight, bias, step.strides, 0, step.dilations, step.group)
    return made.relu() if step.relu else made


# ---- Thresholds --------------------------------------------------------------------------------


def threshold(layer: Layer) -> float:
    """What a layer's grid reaches, by which its line in a calibration table is known."""
    return float(np.float32((layer.type.scale or 0.0) * layer.type.limits[1]))


def learn_thresholds(
    network: Simulated, images: np.ndarray, known: Mapping[str, float]
) -> dict[str, float]:
    """Tune thresholds so that the network on its grids says what it says in float.

    Parameters
    ----------
    network
        On the grids that the thresholds make.
    images
        Preprocessed, ``[N, ...]``.
    known
        The table's thresholds by layer. Layers that share one keep sharing it.

    Returns
    -------
    dict
        New ones, by layer, of those that the graph's grids come from.
    """
    layers = [one for one in network.pair.layers.values() if one.type.is_quantized]
    names = {threshold(layer): _lines(known, threshold(layer)) for layer in layers}
    logs = {
        value: torch.tensor(np.log(START), dtype=torch.float32, requires_grad=True)
        for value, of in names.items()
        if of
    }
    optimizer = torch.optim.Adam(logs.values(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = np.random.default_rng(0)
    for _ in range(STEPS):
        chosen = generator.permutation(len(images))[:BATCH]
        batch = torch.from_numpy(images[chosen])
        with torch.no_grad():
            wanted = network.run(batch, quantized=False)
        found = network.run(batch, {value: log.exp() for value, log in logs.items()})
        loss = distillation_loss(found, wanted, TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        name: known[name] * float(log.detach().exp())
        for value, log in logs.items()
        for name in names[value]
    }


def _lines(known: Mapping[str, float], value: float) -> list[str]:
    return [name for name, one in known.items() if abs(one - value) < NEAR * value]


def _grids(
    network: Simulated, known: Mapping[str, float], learnt: Mapping[str, float]
) -> dict[str, float]:
    """The grid that each layer gets of new thresholds."""
    made = {}
    for name, layer in network.pair.layers.items():
        lines = _lines(known, threshold(layer)) if layer.type.is_quantized else []
        if lines:
            made[name] = (layer.type.scale or 0.0) * learnt[lines[0]] / known[lines[0]]
    return made


def _write_thresholds(path: Path, learnt: Mapping[str, float]) -> None:
    lines = []
    for line in path.read_text("utf8").splitlines():
        words = line.split()
        if len(words) == 4 and words[0] in learnt:
            words[1] = f"{learnt[words[0]]:.7f}"
            line = " ".join(words)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", "utf8")


# ---- Weight scales -----------------------------------------------------------------------------


def least_squares_scales(weight: np.ndarray) -> np.ndarray:
    """For each output channel the unit whose 8-bit integers are nearest, float64 ``[channels]``."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    tried = SCALES[:, None] * np.where(largest > 0, largest, 1.0) / LARGEST
    error = [((on_scales(rows, one) * one[:, None] - rows) ** 2).sum(1) for one in tried]
    return tried[np.argmin(error, 0), np.arange(len(rows))]


def on_scales(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Integers of weights, half away from zero as the compiler rounds them."""
    units = weight.astype(np.float64) / scales.reshape(-1, *[1] * (weight.ndim - 1))
    whole = np.sign(units) * np.floor(np.abs(units) + 0.5)
    return whole.clip(-LARGEST - 1, LARGEST).astype(np.int64)


def _write_scales(path: Path, graph: TopGraph, scales: Mapping[str, np.ndarray]) -> None:
    layers = {layer["name"]: layer for layer in graph.layers}
    lines = ["#weight_scale"]
    for name, of in scales.items():
        # A convolution that a batch norm is folded into goes by the name that it had before.
        folded = layers[name]["op"] == "top.Scale"
        listed = layers[name]["inputs"][0] if folded else name
        units, zeros = " ".join(f"{one:.9g}" for one in of), " ".join(["0"] * len(of))
        lines.append(f"{listed}_weight {len(of)} {units} {len(of)} {zeros}")
    with path.open("a", encoding="utf8") as file:
        file.write("\n".join(lines) + "\n")


# ---- Rounding ----------------------------------------------------------------------------------


def learn_rounding(
    network: Simulated, images: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Integers of weights, and float biases, that make each layer's result nearest to float.

    Parameters
    ----------
    network, images
        As of `learn_thresholds`.

    Returns
    -------
    dict
        ``(weights, biases)`` by layer; integers ``[out, in, rows, columns]``, float32 ``[out]``.
    """
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    given: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    batch = torch.from_numpy(images)
    stored: dict[str, torch.Tensor] = {}
    floats: dict[str, torch.Tensor] = {}
    coming = iter([*network.pair.layers][1:])
    with torch.no_grad():
        # Both runs go on layer by layer: what is learnt of one is what the next ones see.
        for (layer, value), (_, in_float) in zip(
            network.values(batch, weights=given), network.values(batch, quantized=False)
        ):
            stored[layer.name], floats[layer.name] = value, in_float
            name = next(coming, "")
            if name not in network.weights:
                continue
            following = network.pair.layers[name]
            (source,) = following.reads.values()
            whole, bias = _rounded(network, name, stored[source], floats[source])
            units = network.step_of_weights(name).reshape(-1, 1, 1, 1)
            made[name] = whole, bias
            given[name] = (
                torch.from_numpy((whole * units).astype(np.float32)),
                torch.from_numpy(bias),
            )
    return made


def _rounded(
    network: Simulated, name: str, stored: torch.Tensor, floats: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and bias of one convolution, of its inputs on their grid and in float."""
    step = network.pair.layers[name].floating[-1]
    assert isinstance(step, Convolution)
    weight, bias = network.weights[name], network.biases[name]
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    seen, exact = (_patches(step, x) for x in (stored, floats))
    wanted = exact @ rows.T
    mean, middle = seen.mean(0), wanted.mean(0)
    seen, wanted = seen - mean, wanted - middle
    units = network.step_of_weights(name)
    whole = np.empty_like(rows)
    largest = np.abs(rows).argmax(1)
    kept = rows[np.arange(len(rows)), largest]
    for start in range(0, rows.shape[1], TOGETHER):
        part = slice(start, start + TOGETHER)
        whole[:, part] = passed_on(rows[:, part], seen[:, part], units)
    whole[np.arange(len(rows)), largest] = on_scales(kept, units)
    shift = bias + middle - (whole * units[:, None]) @ mean
    return whole.reshape(weight.shape).astype(np.int64), shift.astype(np.float32)


def _patches(step: Convolution, x: torch.Tensor) -> np.ndarray:
    """What results are sums over, float64 ``[places, in * rows * columns]``."""
    top, left, bottom, right = step.pads
    padded = functional.pad(x, (left, right, top, bottom))
    size = step.weight.shape[2:]
    columns = functional.unfold(padded, size, step.dilations, stride=step.strides)
    places = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    chosen = np.linspace(0, len(places) - 1, min(PLACES, len(places))).astype(int)
    return places[chosen].numpy().astype(np.float64)


def passed_on(rows: np.ndarray, seen: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Round weights one after the other, each error passed on to those that follow.

    Parameters
    ----------
    rows
        Weights, ``[channels, K]``.
    seen
        Inputs less their mean, ``[places, K]``.
    units
        Of each channel's grid, ``[channels]``.

    Returns
    -------
    np.ndarray
        Integers of 8 bits, as floats ``[channels, K]``.
    """
    square = seen.T @ seen / len(seen)
    square[np.diag_indices_from(square)] += DAMPING * max(float(np.diag(square).mean()), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(square)).T
    left, whole = rows.copy(), np.empty_like(rows)
    for k in range(rows.shape[1]):
        whole[:, k] = on_scales(left[:, k], units)
        error = (left[:, k] - whole[:, k] * units) / upper[k, k]
        left[:, k + 1 :] -= error[:, None] * upper[k, k + 1 :]
    return whole


def _write_weights(
    folder: Path,
    graph: TopGraph,
    network: Simulated,
    rounded: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Put what was learnt into the weights of the top-level graph, beside the table."""
    (path,) = graph.folder.glob(f"{graph.network.name}_top_*_weight.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    layers = {layer["name"]: layer for layer in graph.layers}
    for name, (whole, bias) in rounded.items():
        layer, scale, before = layers[name], None, 0.0
        target = layer["inputs"][2:3]
        if layer["op"] == "top.Scale":  # a batch norm that the compiler folds in
            scale, layer = arrays[layer["inputs"][1]].ravel(), layers[layer["inputs"][0]]
            before = arrays[layer["inputs"][2]].ravel() * scale
        values = whole * network.step_of_weights(name).reshape(-1, 1, 1, 1)
        if scale is not None:
            live = scale != 0
            values[live] /= scale[live].reshape(-1, 1, 1, 1)
            values[~live] = arrays[layer["inputs"][1]][~live]
        arrays[layer["inputs"][1]] = values.astype(np.float32)
        if target and target[0] in arrays:
            shape = arrays[target[0]].shape
            arrays[target[0]] = (bias - before).reshape(shape).astype(np.float32)
    np.savez(folder / path.name, **arrays)


def _check_holds(
    lowered: Graph, grids: Mapping[str, float], weights: Mapping[str, np.ndarray], path: Path
) -> None:
    """Make sure that the compiler's graph holds what was learnt.

    Raises
    ------
    ToolchainError
        With the first layer that differs.
    """
    for op in lowered.ops:
        grid = grids.get(op.name)
        if grid is not None and abs((op.result.scale or 0.0) - grid) > NEAR * grid:
            raise _unlike(path, op.name, f"has the grid {op.result.scale}, learnt was {grid:.6g}")
        if op.name in weights:
            there = lowered.weights[op.operand(1)]
            other = int((there != weights[op.name]).sum())
            if other:
                raise _unlike(path, op.name, f"has {other} of {there.size} weights otherwise")


def _unlike(path: Path, name: str, what: str) -> ToolchainError:
    return ToolchainError(
        f"the compiler makes another graph of {path} than was learnt: layer {name!r} {what}. "
        "Nothing is compiled of it; choose a strategy that learns less."
    )
