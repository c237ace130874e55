"""The float network behind the engine interface: what every BModel is compared with."""

from __future__ import annotations

import numpy as np
import torch

from ..cache import file_digest
from ..errors import EngineError
from ..model.trace import TracedModel
from .bmodel_file import Graph, Stage, TensorInfo
from .interface import Arrays, Engine


class TorchEngine(Engine):
    """A traced model run by torch on the processor.

    Parameters
    ----------
    model
        As `trace_model` makes it.

    Raises
    ------
    EngineError
        When the file is missing or is no TorchScript.
    """

    backend = "torch"

    def __init__(self, model: TracedModel) -> None:
        super().__init__((Graph("lprnet", (Stage((TensorInfo("input", model.input_shape),),
                                                 (TensorInfo("logits", model.output_shape),)),)),),
                         batch_mean=model.batch_mean)
        try:
            self._network = torch.jit.load(str(model.path), map_location="cpu").eval()
            digest = file_digest(model.path)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"cannot load the traced model {model.path}: "
                              f"{str(error).strip().splitlines()[0]} Trace it again.") from error
        self.description |= {"model": digest, "tool": f"torch {torch.__version__}",
                             "threads": torch.get_num_threads()}

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        # Its optimizer takes seconds, gains nothing here, and changes the last bits.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            logits = self._network(torch.from_numpy(inputs["input"]))
        return {"logits": np.ascontiguousarray(logits.numpy())}
