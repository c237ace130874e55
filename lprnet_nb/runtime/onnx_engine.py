"""A user's network in float behind the engine interface: what its BModels are compared with.

Each call runs on one thread and several calls side by side, so that the reference does not depend
on the machine's cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ..cache import file_digest
from ..model.onnx_files import INPUT, OUTPUT, onnx_arithmetic, open_session, run_session
from ..model.trace import TracedModel
from .bmodel_file import Graph, Stage, TensorInfo
from .interface import Arrays, Engine, Job


class OnnxEngine(Engine):
    """A traced model run by onnxruntime on the processor.

    Parameters
    ----------
    model
        As `trace_model` makes it of a user's network.
    threads
        Calls side by side; by default one for each core.

    Raises
    ------
    DataError
        When onnxruntime does not take it.
    """

    backend = "onnxruntime"

    def __init__(self, model: TracedModel, *, threads: int | None = None) -> None:
        stage = Stage(
            (TensorInfo(INPUT, model.input_shape),), (TensorInfo(OUTPUT, model.output_shape),)
        )
        super().__init__((Graph(model.network.name, (stage,)),), batch_mean=model.batch_mean)
        self._session = open_session(model.path)
        self._threads = threads or len(os.sched_getaffinity(0))
        self.description |= {
            "model": file_digest(model.path),
            "threads": self._threads,
            "tool": onnx_arithmetic(),
        }

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        return {OUTPUT: run_session(self._session, inputs[INPUT])}

    def _run_many(self, jobs: list[Job]) -> Iterator[tuple[int, Arrays]]:
        with ThreadPoolExecutor(min(self._threads, len(jobs)), "onnxruntime") as pool:
            yield from enumerate(pool.map(lambda job: self._run(*job), jobs))
