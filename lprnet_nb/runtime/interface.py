"""One interface to every way of running a recognizer, shaped like sophon.sail's `Engine`.

A backend supplies `_run` (one call of one stage) and may supply `_run_many`. Everything that can be
wrong with a call is checked here, once, whatever the backend: the real sail casts, reuses old input
or takes the process down where this raises.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..datasets.interface import PUBLISHED_INTERFACE, Interface
from ..errors import EngineError, ParameterError
from ..progress import progress_bar
from .bmodel_file import Graph, Stage, TensorInfo

Arrays = dict[str, np.ndarray]
Job = tuple[Graph, Stage, Arrays]

_STORED = {
    "BM_FLOAT32": np.float32,
    "BM_FLOAT16": np.float16,
    "BM_INT8": np.int8,
    "BM_UINT8": np.uint8,
    "BM_INT16": np.int16,
    "BM_UINT16": np.uint16,
}


class Engine(ABC):
    """A loaded model; `open_engine` makes one.

    Parameters
    ----------
    graphs
        What can be run.
    batch_mean
        "batch" or "image" where it is known: with "batch" padding changes results.
    device_id
        As sail's `get_device_id` answers.

    Attributes
    ----------
    interface
        What the model takes and how its output is laid out; `open_engine` sets what a record says.
    batch
        Images per call of the largest stage.
    description
        Backend, chip, versions and library digests; JSON-able.
    seconds
        Wall time spent running the model so far, padding and copies included.
    runtime_seconds
        Time spent inside the runtime's own call, where the backend can tell; the sum over workers.
    """

    backend = ""
    interface: Interface = PUBLISHED_INTERFACE

    def __init__(
        self, graphs: tuple[Graph, ...], *, batch_mean: str | None = None, device_id: int = 0
    ) -> None:
        self._graphs = {graph.name: graph for graph in graphs}
        self._batch_mean = batch_mean
        self._device_id = device_id
        self._lock = threading.RLock()
        self._closed = False
        self.seconds = 0.0
        self.runtime_seconds: float | None = None
        self.description: dict[str, Any] = {"backend": self.backend}
        self.batch = max(stage.inputs[0].shape[0] for graph in graphs for stage in graph.stages)

    # What sail has

    def get_graph_names(self) -> list[str]:
        """Names of the networks in the BModel."""
        return list(self._graphs)

    def get_input_names(self, graph: str) -> list[str]:
        """Names of a graph's inputs."""
        return [tensor.name for tensor in self._graph(graph).stages[0].inputs]

    def get_output_names(self, graph: str) -> list[str]:
        """Names of a graph's outputs."""
        return [tensor.name for tensor in self._graph(graph).stages[0].outputs]

    def get_input_shape(self, graph: str, tensor: str) -> list[int]:
        """Shape of an input in the graph's first stage."""
        return list(self._tensor(graph, tensor, "inputs").shape)

    def get_output_shape(self, graph: str, tensor: str) -> list[int]:
        """Shape of an output in the graph's first stage."""
        return list(self._tensor(graph, tensor, "outputs").shape)

    def get_input_dtype(self, graph: str, tensor: str) -> str:
        """How an input is stored on the chip, as sail names it: ``"BM_FLOAT32"``."""
        return self._tensor(graph, tensor, "inputs").dtype

    def get_output_dtype(self, graph: str, tensor: str) -> str:
        """How an output is stored on the chip."""
        return self._tensor(graph, tensor, "outputs").dtype

    def get_input_scale(self, graph: str, tensor: str) -> float:
        """What a real value is multiplied by on its way in."""
        return self._tensor(graph, tensor, "inputs").scale

    def get_output_scale(self, graph: str, tensor: str) -> float:
        """What a stored value is multiplied by on its way out."""
        return self._tensor(graph, tensor, "outputs").scale

    def get_max_input_shapes(self, graph: str) -> dict[str, list[int]]:
        """Largest shape of each input over the stages."""
        return _largest([stage.inputs for stage in self._graph(graph).stages])

    def get_max_output_shapes(self, graph: str) -> dict[str, list[int]]:
        """Largest shape of each output over the stages."""
        return _largest([stage.outputs for stage in self._graph(graph).stages])

    def get_device_id(self) -> int:
        """Number of the device that the model runs on."""
        return self._device_id

    def graph_is_dynamic(self, graph: str) -> bool:
        """Whether a graph takes any shape up to its largest."""
        return self._graph(graph).dynamic

    def process(self, graph: str, inputs: Arrays) -> Arrays:
        """Run a graph once.

        Parameters
        ----------
        graph
            One of `get_graph_names`.
        inputs
            One float32 array for each input, in the shape of one of the graph's stages; for an
            input stored as ``"BM_UINT8"`` (preprocessing compiled in) pixel values 0 to 255.

        Returns
        -------
        dict
            One float32 array for each output.

        Raises
        ------
        ParameterError
            For an unknown graph or input, a missing input, another dtype, a shape that the graph
            was not compiled for, or values that are not finite.
        EngineError
            When the engine is closed or the run fails.
        """
        job = self._checked(graph, inputs)
        with self._lock:
            started = time.perf_counter()
            outputs = self._run(*job)
            self.seconds += time.perf_counter() - started
        return outputs

    # What notebooks and the report use

    def infer(
        self, inputs: np.ndarray, progress: bool | Callable[[int], None] = False
    ) -> np.ndarray:
        """Logits of any number of preprocessed images.

        Parameters
        ----------
        inputs
            float32 ``[N, planes, height, width]``, as `datasets.images.preprocess` makes them.
        progress
            Show a bar, in a notebook or a terminal; or a function that is called with the number
            of images done since its last call.

        Returns
        -------
        np.ndarray
            float32 ``[N, classes, steps]``, whatever the layout of the model's own output.

        Notes
        -----
        Images are run in the largest batch that the model has; the rest in smaller ones where it
        has them, else padded with copies of the last image and cut. In a model whose mean runs
        over the batch, padding changes the results of the images beside it: a warning says so.
        """
        inputs = self._checked_images(inputs)
        jobs, places = [], []
        for graph, stage, start, stop in self.plan(len(inputs)):
            part = inputs[start:stop]
            size = stage.inputs[0].shape[0]
            if len(part) < size:
                self._warn_of_padding(size, size - len(part))
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            array = self._as_stored(part, stage.inputs[0])
            jobs.append((graph, stage, {stage.inputs[0].name: array}))
            places.append((start, stop))
        output = next(iter(self._graphs.values())).stages[0].outputs[0]
        sizes = self.interface.sizes(output.shape)
        logits = np.empty((len(inputs), sizes["c"], sizes.get("t", 1)), np.float32)
        shown = progress_bar(len(inputs), self.backend, progress is True)
        with self._lock, shown as advance:
            advance = progress if callable(progress) else advance
            started = time.perf_counter()
            for index, outputs in self._run_many(jobs):
                start, stop = places[index]
                arranged = self.interface.arranged(next(iter(outputs.values())))
                logits[start:stop] = arranged[: stop - start]
                advance(stop - start)
            self.seconds += time.perf_counter() - started
        return logits

    def close(self) -> None:
        """Let go of the model and its processes; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    # What a backend supplies

    @abstractmethod
    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        """Run one stage on checked inputs."""

    def _run_many(self, jobs: list[Job]) -> Iterable[tuple[int, Arrays]]:
        """Run many stages; yields the number of a job and its outputs, in any order."""
        for index, job in enumerate(jobs):
            yield index, self._run(*job)

    def _close(self) -> None:  # noqa: B027, a backend that holds nothing need not say so
        """Let go of what the backend holds."""

    # Checks

    def _open(self) -> None:
        if self._closed:
            raise EngineError(
                f"this {self.backend} engine is closed. Open another with open_engine."
            )

    def _graph(self, name: str) -> Graph:
        self._open()
        if name not in self._graphs:
            raise ParameterError(
                f"unknown graph {name!r}. This model has: {', '.join(self._graphs)}."
            )
        return self._graphs[name]

    def _tensor(self, graph: str, name: str, side: str) -> TensorInfo:
        tensors = {tensor.name: tensor for tensor in getattr(self._graph(graph).stages[0], side)}
        if name not in tensors:
            raise ParameterError(
                f"graph {graph!r} has no tensor {name!r} among its {side}: {', '.join(tensors)}."
            )
        return tensors[name]

    def _checked(self, name: str, inputs: Arrays) -> Job:
        graph = self._graph(name)
        if not isinstance(inputs, dict):
            raise ParameterError(
                f"inputs are a {type(inputs).__name__}, expected a dict "
                "{input name: float32 array}."
            )
        expected = self.get_input_names(name)
        if set(inputs) != set(expected):
            raise ParameterError(
                f"graph {name!r} takes the inputs {', '.join(expected)}; it was "
                f"given {', '.join(map(str, inputs)) or 'none'}."
            )
        arrays = {each: self._checked_array(each, inputs[each]) for each in expected}
        for stage in graph.stages:
            if all(
                _fits(arrays[tensor.name].shape, tensor.shape, graph.dynamic)
                for tensor in stage.inputs
            ):
                return graph, stage, arrays
        given = {each: list(array.shape) for each, array in arrays.items()}
        possible = [
            {tensor.name: list(tensor.shape) for tensor in stage.inputs} for stage in graph.stages
        ]
        raise ParameterError(
            f"graph {name!r} was not compiled for the shapes {given}. It takes "
            f"{' or '.join(map(str, possible))}."
        )

    def _checked_images(self, inputs: np.ndarray) -> np.ndarray:
        self._open()
        array = self._checked_array("inputs", inputs)
        if any(len(stage.inputs) != 1 for graph in self._graphs.values() for stage in graph.stages):
            raise ParameterError("infer() is for models with one input; use process().")
        shape = self.interface.input.shape
        if array.ndim != 4 or array.shape[1:] != shape or not len(array):
            raise ParameterError(
                f"inputs have the shape {list(array.shape)}, expected "
                f"[N, {', '.join(map(str, shape))}] with N of at least 1."
            )
        return array

    @staticmethod
    def _checked_array(name: str, array: np.ndarray) -> np.ndarray:
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ParameterError(
                f"{name} is {kind}, expected a float32 array: preprocess() makes one from images."
            )
        if not np.isfinite(array).all():
            raise ParameterError(f"{name} holds values that are not finite.")
        return np.ascontiguousarray(array)

    def _as_stored(self, images: np.ndarray, tensor: TensorInfo) -> np.ndarray:
        """Preprocessed images as a model takes them: raw pixels, if it preprocesses by itself.

        Channels come last where the tensor has them there.
        """
        taken = self.interface.input
        array = taken.pixels(images) if tensor.dtype == "BM_UINT8" else images
        if tensor.shape[1:] == (*taken.shape[1:], taken.shape[0]):
            array = array.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(array)

    # Batches

    def plan(self, count: int) -> Iterator[tuple[Graph, Stage, int, int]]:
        """Cover `count` images: largest stages first, then smaller ones that fit, then padding.

        Yields graph, stage, and the first and one past the last image of each call.
        """
        stages = sorted(
            (
                (stage.inputs[0].shape[0], graph, stage)
                for graph in self._graphs.values()
                for stage in graph.stages
            ),
            key=lambda each: -each[0],
        )
        done = 0
        for size, graph, stage in stages:
            while count - done >= size:
                yield graph, stage, done, done + size
                done += size
        if done < count:
            _, graph, stage = stages[-1]
            yield graph, stage, done, count

    def _warn_of_padding(self, size: int, missing: int) -> None:
        if self._batch_mean == "batch":
            warnings.warn(
                f"the last batch of {size} lacks {missing} images and is padded. This model takes "
                'its mean over the whole batch (batch_mean="batch"), so padding CHANGES the '
                f"results of that batch's other images. Give it a multiple of {size} images, or "
                'compile with batch_mean="image".',
                stacklevel=4,
            )


def _fits(shape: tuple[int, ...], compiled: tuple[int, ...], dynamic: bool) -> bool:
    if dynamic:
        return len(shape) == len(compiled) and all(
            0 < side <= most for side, most in zip(shape, compiled, strict=True)
        )
    return shape == compiled


def _largest(stages: list[tuple[TensorInfo, ...]]) -> dict[str, list[int]]:
    return {
        tensors[0].name: list(max((each.shape for each in tensors), key=math.prod))
        for tensors in zip(*stages, strict=True)
    }


def stored_dtype(tensor: TensorInfo) -> np.dtype:
    """Numpy's dtype of a tensor as the chip stores it.

    Raises
    ------
    EngineError
        For a dtype that BModels of ours do not have at their edges.
    """
    if tensor.dtype not in _STORED:
        raise EngineError(
            f"tensor {tensor.name} is stored as {tensor.dtype}, which this engine "
            "does not convert. Compile with float or 8-bit inputs and outputs."
        )
    return np.dtype(_STORED[tensor.dtype])


def to_chip(array: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """Real values as an input is stored: scaled, rounded half to even and cut."""
    kind = stored_dtype(tensor)
    if kind.kind == "f":
        return array.astype(kind, copy=False)
    bounds = np.iinfo(kind)
    return np.clip(np.rint(array * np.float32(tensor.scale)), bounds.min, bounds.max).astype(kind)


def from_chip(raw: bytes, shape: tuple[int, ...], tensor: TensorInfo) -> np.ndarray:
    """Stored output bytes as real values, float32."""
    stored = np.frombuffer(raw, stored_dtype(tensor)).reshape(shape)
    scale = 1.0 if stored.dtype.kind == "f" else tensor.scale
    return stored.astype(np.float32) * np.float32(scale)
