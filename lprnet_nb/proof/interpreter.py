"""The vendor's graph interpreter, in the compiler environment: the emulator's judge and rival."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lprnet_nb.errors import EngineError
from lprnet_nb.files import private_folder
from lprnet_nb.toolchain.environment import compiler
from lprnet_nb.toolchain.process import run_logged

TIMEOUT = 3600.0


@dataclass(frozen=True)
class Interpretation:
    """What the interpreter made of some inputs.

    Parameters
    ----------
    logits
        float32 ``[N, classes, 18]``.
    seconds
        Time of every call, loading left out.
    tensors
        Stored values of every layer, float32 ``[N, ...]``, where they were asked for.
    """

    logits: np.ndarray
    seconds: np.ndarray
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def quantized_graph(bmodel: Any) -> Path:
    """The ``*_tpu.mlir`` that a BModel was generated from.

    Raises
    ------
    EngineError
        When it is not beside the BModel.
    """
    found = sorted(Path(bmodel.path).parent.glob("*_tpu.mlir"))
    if len(found) != 1:
        raise EngineError(
            f"no quantized graph beside {bmodel.path}; compile the model again to "
            "compare it with the vendor's interpreter."
        )
    return found[0]


def interpret(
    bmodel: Any,
    inputs: np.ndarray,
    *,
    tensors: bool = False,
    threads: int = 1,
    release: str | None = None,
) -> Interpretation:
    """Run inputs through the interpreter.

    Parameters
    ----------
    bmodel
        A `BModel` in the folder of its compile.
    inputs
        float32 (uint8 with fused preprocessing) ``[N, 3, 24, 94]``, N a multiple of the batch.
    tensors
        Return every layer too.
    threads
        OpenMP threads of the interpreter.
    release
        Whose interpreter, see `environment.find_compiler`.

    Raises
    ------
    EngineError
        When the quantized graph is missing.
    ToolchainError
        When the interpreter fails.
    """
    graph, tool = quantized_graph(bmodel), compiler(release)
    worker = resources.files("lprnet_nb.toolchain").joinpath("inside", "interpreter_worker.py")
    with (
        resources.as_file(worker) as script,
        tempfile.TemporaryDirectory(dir=private_folder()) as scratch,
    ):
        place = Path(scratch)
        graph = _with_weights(graph, place)
        np.save(place / "inputs.npy", inputs)
        command = [
            str(tool.python),
            str(script),
            str(graph),
            str(place / "inputs.npy"),
            str(place / "output.npz"),
            *(["--tensors"] if tensors else []),
        ]
        run_logged(
            command,
            cwd=place,
            log=place / "log",
            python=str(tool.python),
            env=tool.environment() | {"OMP_NUM_THREADS": str(threads)},
            timeout=TIMEOUT,
            what="the vendor's interpreter",
        )
        with np.load(place / "output.npz") as made:
            layers = {name[2:]: made[name] for name in made.files if name.startswith("t:")}
            return Interpretation(made["output"], made["seconds"], layers)


def _with_weights(graph: Path, place: Path) -> Path:
    """The graph beside its weights: releases before 1.23 leave it alone, see `KEEPS_WEIGHTS`.

    What was exported of them is written to a copy's folder, in the types that the tool stores.
    """
    exported = graph.parent / "graph"
    if not (exported / "graph.json").exists():
        return graph
    record = json.loads((exported / "graph.json").read_text("utf8"))
    name = record["module"]["module.weight_file"]
    if (graph.parent / name).exists():
        return graph
    with np.load(exported / "graph.npz") as arrays:
        weights = {
            key: arrays[key].astype(np.float16).view(np.uint16)
            if kind["storage"] == "f16"
            else arrays[key]
            for key, kind in record["weights"].items()
        }
    np.savez(place / name, **weights)
    return Path(shutil.copy(graph, place))
