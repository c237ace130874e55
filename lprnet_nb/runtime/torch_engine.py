"""The float network behind the engine interface: what every BModel is compared with.

Each call runs on one thread, and several calls side by side: torch sums in another order with
another number of threads, and the reference must not depend on the machine's cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..cache import file_digest
from ..errors import EngineError
from ..model.trace import TracedModel, float_arithmetic
from .bmodel_file import Graph, Stage, TensorInfo
from .interface import Arrays, Engine, Job


class TorchEngine(Engine):
    """A traced model run by torch on the processor.

    Parameters
    ----------
    model
        As `trace_model` makes it.
    threads
        Calls side by side; by default one for each core.

    Raises
    ------
    EngineError
        When the file is missing or is no TorchScript.
    """

    backend = "torch"

    def __init__(self, model: TracedModel, *, threads: int | None = None) -> None:
        super().__init__(
            (
                Graph(
                    model.network.name,
                    (
                        Stage(
                            (TensorInfo("input", model.input_shape),),
                            (TensorInfo("logits", model.output_shape),),
                        ),
                    ),
                ),
            ),
            batch_mean=model.batch_mean,
        )
        try:
            self._network = torch.jit.load(str(model.path), map_location="cpu").eval()
            digest = file_digest(model.path)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"cannot load the traced model {model.path}: "
                f"{str(error).strip().splitlines()[0]} Trace it again."
            ) from error
        self._threads = threads or len(os.sched_getaffinity(0))
        self.description |= {
            "model": digest,
            "threads": self._threads,
            "tool": f"{float_arithmetic()}, one thread a call",
        }

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        [(_, outputs)] = self._run_many([(graph, stage, inputs)])
        return outputs

    def _run_many(self, jobs: list[Job]) -> Iterator[tuple[int, Arrays]]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(min(self._threads, len(jobs)), "torch") as pool:
                yield from enumerate(pool.map(lambda job: self._call(job[2]), jobs))
        finally:
            torch.set_num_threads(before)

    def _call(self, inputs: Arrays) -> Arrays:
        # Its optimizer takes seconds, gains nothing here, and changes the last bits.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            logits = self._network(torch.from_numpy(inputs["input"]))
        return {"logits": np.ascontiguousarray(logits.numpy())}
