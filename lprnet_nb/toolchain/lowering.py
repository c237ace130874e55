"""Calibrate and quantize without compiling: what a study of hundreds of settings can afford.

One process of the compiler environment stays open and answers requests (`quantize_worker.py`), so
that its tools are imported once, and the statistics of calibration images are gathered once for
several methods. What comes out is the quantized graph that `compile.compile_bmodel` would put into
a BModel, tensor for tensor, ready for the emulator.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np

from .. import children
from ..cache import array_digest, artifact, digest
from ..errors import ToolchainError
from ..places import cache_dir
from ..sources import code_digest
from .chips import parse_chip
from .compile import CalibrationTable, TopGraph, equalized, float_lines, write_images
from .environment import Compiler, compiler
from .process import log_tail
from .strategies import Strategy

WORKER = "quantize_worker.py"


class Quantizer:
    """The compiler's calibration and quantization, kept warm in one process.

    Use as a context manager; the process starts with the first request that no artifact answers.

    Parameters
    ----------
    log
        File that gets what the tools print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log.absolute()
        self.tool: Compiler = compiler()
        self._process: children.Child | None = None
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Quantizer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):  # it died with a request half sent
                _pipe(self._process.stdin).close()
            children.kill_group(self._process)
            _pipe(self._process.stdout).close()
            self._process = None
        self._files.close()

    def tables(
        self,
        graph: TopGraph,
        images: np.ndarray,
        methods: Sequence[str],
        *,
        tune: int = 5,
        channel_order: str = "bgr",
        weight_equalization: bool = False,
    ) -> dict[str, CalibrationTable]:
        """Thresholds by several methods from the same images.

        Parameters
        ----------
        graph
            Top-level graph of batch 1.
        images
            uint8 BGR ``[N, 24, 94, 3]``.
        methods
            See `strategies.METHODS`.
        tune, channel_order, weight_equalization
            See `strategies.Strategy`. Equalized weights lie beside the tables.

        Raises
        ------
        ToolchainError
            With what the tool said.
        """
        if channel_order == "rgb":
            images = np.ascontiguousarray(images[..., ::-1])
        if weight_equalization:
            graph = equalized(graph)
        inputs = {
            "code": code_digest("tables"),
            "top": graph.digest,
            "images": array_digest(images),
            "methods": sorted(methods),
            "tune": tune,
            "tpu_mlir": self.tool.version,
        }

        def build(folder: Path) -> None:
            _copy_network(graph, folder)
            write_images(graph, images, folder / "images")
            self._ask(
                {
                    "do": "calibrate",
                    "network": graph.network.name,
                    "folder": str(folder),
                    "methods": inputs["methods"],
                    "tune": tune,
                },
                "calibrating",
            )
            weights = folder.glob(_weights_of(graph)) if weight_equalization else ()
            _keep(folder, {f"table_{method}" for method in methods} | {p.name for p in weights})

        folder = artifact("tables", inputs, build)
        return {
            method: CalibrationTable(
                folder / f"table_{method}",
                None,
                digest({**inputs, "method": method}),
                self.tool.version,
            )
            for method in methods
        }

    def lower(
        self, graph: TopGraph, chip: str, strategy: Strategy, table: CalibrationTable
    ) -> Path:
        """Quantize a network for a chip; gives the folder that the emulator reads.

        Raises
        ------
        ToolchainError
            With what the tool said, where the chip cannot do what `strategy` asks.
        """
        chip = parse_chip(chip)
        lines = float_lines(graph, chip, strategy, table)
        inputs = {
            "top": graph.digest,
            "chip": chip,
            "table": table.digest,
            "float": lines,
            "asymmetric": not strategy.symmetric,
            "fused": graph.fused,
            "tpu_mlir": self.tool.version,
        }

        def build(folder: Path) -> None:
            _copy_network(graph, folder)
            # Weight equalization and bias correction rewrite the weights beside the table.
            for path in table.path.parent.glob(_weights_of(graph)):
                shutil.copy(path, folder / path.name)
            shutil.copy(table.path, folder / "calibration_table")
            if lines:
                (folder / "float_layers").write_text("\n".join(lines) + "\n", "utf8")
            self._ask(
                {
                    "do": "lower",
                    "network": graph.network.name,
                    "folder": str(folder),
                    "chip": chip,
                    "table": "calibration_table",
                    "float_table": "float_layers" if lines else None,
                    "asymmetric": not strategy.symmetric,
                    "fuse_preprocess": graph.fused,
                },
                f"quantizing for {chip}",
            )
            _keep(folder, {"graph"})

        return artifact("lowered", inputs, build) / "graph"

    def _ask(self, request: dict, what: str) -> None:
        if self._process is None:
            self._process = self._started()
        start = self.log.stat().st_size
        asked, answers = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            asked.write(json.dumps(request) + "\n")
            asked.flush()
            answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            self.__exit__()
            raise ToolchainError(
                f"{what}: the compiler's process ended. The end of its log "
                f"({self.log}):\n{log_tail(self.log)}"
            ) from error
        if not answer["ok"]:
            with open(self.log, encoding="utf8", errors="replace") as file:
                file.seek(start)
                said = [line for line in file.read().splitlines() if "error" in line.lower()]
            raise ToolchainError(
                f"{what} failed: {said[-1].strip() if said else answer['error']} (log: {self.log})"
            )

    def _started(self) -> children.Child:
        folder = resources.files(__package__).joinpath("inside")
        script = self._files.enter_context(resources.as_file(folder.joinpath(WORKER)))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        python = str(self.tool.python)
        return children.start(
            [python, script, self.log],
            supervisor=python,
            stdin=children.PIPE,
            stdout=children.PIPE,
            stderr=children.DEVNULL,
            text=True,
            encoding="utf8",
            env=self.tool.environment(),
        )


def _pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None  # Popen was told to make it
    return end


_kept: dict[int, Quantizer] = {}
_keeping = threading.Lock()


def kept_quantizer() -> Quantizer:
    """A quantizer that stays open for this thread's next piece of work."""
    with _keeping:
        thread = threading.get_ident()
        if thread not in _kept:
            log = cache_dir() / "logs" / "quantizers" / f"{os.getpid()}-{len(_kept)}.log"
            _kept[thread] = Quantizer(log)
        return _kept[thread]


def close_quantizers() -> None:
    """Let go of those that `kept_quantizer` keeps open, with their processes and logs."""
    with _keeping:
        quantizers = list(_kept.values())
        _kept.clear()
    for quantizer in quantizers:
        quantizer.__exit__()
        quantizer.log.unlink(missing_ok=True)


def _copy_network(graph: TopGraph, folder: Path) -> None:
    for path in graph.files:
        shutil.copy(path, folder / path.name)


def _weights_of(graph: TopGraph) -> str:
    """Files of a network's weights, as a pattern."""
    return f"{graph.network.name}_top_*_weight.npz"


def _keep(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
