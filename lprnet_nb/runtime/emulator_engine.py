"""The fast exact emulator behind the engine interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import file_digest
from ..errors import EngineError
from . import emulator
from .bmodel_file import Graph, Stage, TensorInfo
from .interface import Arrays, Engine, Job, to_chip

_DTYPES = {"f32": "BM_FLOAT32", "i8": "BM_INT8", "u8": "BM_UINT8"}  # of inputs and outputs
_CHUNK = 64  # images of one call: enough to keep the cores busy, few enough for a moving bar


class EmulatorEngine(Engine):
    """The quantized graph that a BModel was generated from, run on ordinary CPU kernels.

    Parameters
    ----------
    bmodel
        A `BModel` record with its `graph` exported.
    threads, kernels, arithmetic, device
        See `Emulator`. By default the logits are the simulator's.

    Raises
    ------
    EngineError
        When the graph is missing, unreadable or for another chip, or has an unknown operation.
    """

    backend = "emulator"

    def __init__(
        self,
        bmodel: Any,
        *,
        threads: int | None = None,
        kernels: str = "auto",
        arithmetic: str = "chip",
        device: str = "cpu",
    ) -> None:
        folder: Path = bmodel.exported
        self._emulator = emulator.Emulator(folder, threads, kernels, arithmetic, device)
        graph = _described(bmodel.network, self._emulator.graph)
        super().__init__((graph,), batch_mean=bmodel.batch_mean)
        if self._emulator.graph.chip != bmodel.chip:
            raise EngineError(
                f"{folder} is the graph of a {self._emulator.graph.chip} "
                f"BModel, the record says {bmodel.chip}. Compile it again."
            )
        sources = Path(emulator.__file__).parent
        self.description |= self._emulator.description | {
            "model": bmodel.sha256,
            "chip": bmodel.chip,
            "tool": "lprnet_nb emulator",
            "libraries": {
                path.name: file_digest(path)
                for path in sorted(
                    [*sources.glob("*.py"), *sources.glob("*.c"), *folder.glob("graph.*")]
                )
            },
        }

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        tensor = stage.inputs[0]
        logits = self._emulator.run(to_chip(inputs[tensor.name], tensor))
        return {stage.outputs[0].name: logits}

    def _run_many(self, jobs: list[Job]) -> Iterator[tuple[int, Arrays]]:
        """Calls of the emulator take many batches at once."""
        first = 0
        while first < len(jobs):
            graph, stage, _ = jobs[first]
            tensor = stage.inputs[0]
            together = jobs[first : first + max(1, _CHUNK // tensor.shape[0])]
            inputs = np.concatenate([job[2][tensor.name] for job in together])
            [(name, logits)] = self._run(graph, stage, {tensor.name: inputs}).items()
            for index, part in enumerate(np.split(logits, len(together))):
                yield first + index, {name: part}
            first += len(together)


def _described(name: str, graph: emulator.Graph) -> Graph:
    """An exported graph as its BModel describes itself."""

    def tensors(names: tuple[str, ...]) -> tuple[TensorInfo, ...]:
        kinds = ((each, graph.types[each]) for each in names)
        return tuple(
            TensorInfo(each, kind.shape, _DTYPES[kind.storage], kind.scale or 1.0)
            for each, kind in kinds
        )

    return Graph(name, (Stage(tensors(graph.inputs), tensors(graph.outputs)),))
