"""A user's network tried from end to end: what is wrong with it is said before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..datasets.generate import generate_plates
from ..datasets.images import PlateImages, preprocess
from ..errors import LprnetError
from ..model.network import Network
from ..model.network_file import network_weights, read_network
from ..model.onnx_files import operations
from ..model.trace import float_logits, trace_model
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..runtime.engine import open_engine
from ..toolchain.bmodel import BModel
from ..toolchain.chips import parse_chip
from ..toolchain.compile import compile_bmodel, top_graph
from ..toolchain.strategies import make_strategy

IMAGES = 8  # that thresholds are chosen on: enough to compile, not to be accurate
JUDGED = 2  # that the simulator, which takes seconds an image, runs


@dataclass(frozen=True)
class Line:
    """One thing that was tried.

    Parameters
    ----------
    what
        Such as "BM1684X int8, emulator".
    ok
        Whether it is as it should be.
    found
        What was found, or the error.
    """

    what: str
    ok: bool
    found: str


def check_network(path: str, chips: str, *, compiler: bool = True) -> Iterator[Line]:
    """Try a user's network: its file, a forward pass, the compiler, emulator against simulator.

    Parameters
    ----------
    path
        See `network_file.read_network`.
    chips
        Comma-separated names.
    compiler
        Whether to go on after the forward pass.

    Yields
    ------
    Line
        One for each thing that was tried; what depends on one that failed is not tried.
    """
    wanted = [parse_chip(chip) for chip in chips.split(",")]
    try:
        network = read_network(path)
    except LprnetError as error:
        yield Line("file", False, str(error))
        return
    weights = network_weights(network)
    yield from _facts(network, weights)
    if not compiler:
        return
    try:
        graph = top_graph(trace_model(weights))
    except LprnetError as error:
        yield Line("compiler", False, _in_a_line(error))
        return
    yield Line("compiler", True, f"{len(graph.layers)} layers")
    for chip in wanted:
        for precision in ("fp32", "int8"):
            yield from _on_chip(weights, chip, precision)


def _facts(network: Network, weights: Weights) -> Iterator[Line]:
    shape = network.output_shape(1, weights.classes)
    yield Line(
        "forward pass",
        True,
        f"input {[1, *network.input.shape]}, output {list(shape)}: {weights.classes} classes, "
        f"{network.steps} time steps, {network.interface.kind}",
    )
    yield Line("batches", True, "any" if network.batches else "one image a call alone")
    yield Line("operations", True, ", ".join(operations(network.onnx)))
    if network.interface.kind == "ctc":
        logits = float_logits(weights, _plates(network, 1))
        if logits.min() >= 0 and np.allclose(logits.sum(1), 1, atol=1e-3):
            yield Line(
                "scores",
                False,
                "the output is probabilities already; beam search and grammars take them for "
                "logits. Export the network without its softmax",
            )


def _on_chip(weights: Weights, chip: str, precision: str) -> Iterator[Line]:
    what = f"{chip} {precision}"
    images = _plates(weights.of, IMAGES)
    int8 = precision == "int8"
    try:
        bmodel = compile_bmodel(
            trace_model(weights),
            chip,
            precision,
            strategy=make_strategy(name="check", method="max", images=IMAGES) if int8 else None,
            calibration_images=images.images if int8 else None,
        )
    except LprnetError as error:
        yield Line(f"{what}, compiler", False, _in_a_line(error))
        return
    try:
        Emulator(bmodel.exported)
    except LprnetError as error:
        yield Line(f"{what}, emulator", False, f"{error} The simulator runs it (slowly).")
        return
    yield _judged(bmodel, preprocess(images.images[:JUDGED], weights.of.input), what)


def _in_a_line(error: LprnetError) -> str:
    """The last words of a tool's log before what failed and where the log is."""
    first, *log = str(error).splitlines()
    return f"{log[-1].strip()} ({first.rstrip(':')})" if log else first


def _judged(bmodel: BModel, inputs: np.ndarray, what: str) -> Line:
    found = []
    for backend in ("emulator", "simulator"):
        try:
            with open_engine(bmodel, backend) as engine:
                found.append(engine.infer(inputs))
        except LprnetError as error:
            return Line(f"{what}, {backend}", False, str(error))
    apart = float(np.abs(found[0] - found[1]).max())
    said = "equal to the bit" if apart == 0 else f"apart by {apart:.3g} at most"
    close = apart <= 1e-3 * max(1.0, float(np.abs(found[1]).max()))
    return Line(f"{what}, emulator against simulator", close, said)


def _plates(network: Network, count: int) -> PlateImages:
    """Pictures with strokes on a ground, whatever the network reads."""
    return generate_plates(count, 0, workers=0).fitted(network.size)
