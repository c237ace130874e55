"""The emulator: a quantized graph, run for any number of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lprnet_nb.errors import EngineError, LprnetError, ParameterError
from lprnet_nb.runtime.emulator.graph import Arrays, Graph, load_graph
from lprnet_nb.runtime.emulator.lower import ARITHMETIC, lower
from lprnet_nb.runtime.emulator.movement import Constant
from lprnet_nb.runtime.emulator.native import NativeExecutor, Unsupported
from lprnet_nb.runtime.emulator.steps import Step

if TYPE_CHECKING:
    from lprnet_nb.runtime.emulator.torch_executor import TorchExecutor


class Emulator:
    """Runs an exported quantized graph, bit for bit.

    Integer layers have one meaning. Of float layers the vendor's interpreter and the chip differ in
    the last bits, which shows in the logits as one step of the 8-bit layers and now and then in a
    reading; ``arithmetic`` says whom to follow.

    Parameters
    ----------
    folder
        Folder with ``graph.json`` and ``graph.npz`` (``BModel.graph``).
    threads
        Cores to use; all by default.
    kernels
        "native" (compiled on first use), "torch" (slower, no compiler needed, any device), or
        "auto": native, and torch where that is impossible; `description` says which and why.
    arithmetic
        "chip", so that logits are the simulator's, or "interpreter".
    device
        Device of the torch kernels, such as "cuda". Anything but "cpu" implies them.

    Raises
    ------
    EngineError
        A graph that cannot be read or that has something the emulator does not know.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        kernels: str = "auto",
        arithmetic: str = ARITHMETIC[0],
        device: str = "cpu",
    ):
        if kernels not in ("auto", "native", "torch"):
            raise ParameterError(f"kernels {kernels!r}; choose auto, native or torch")
        if arithmetic not in ARITHMETIC:
            raise ParameterError(f"arithmetic {arithmetic!r}; choose {' or '.join(ARITHMETIC)}")
        if device != "cpu" and kernels == "native":
            raise ParameterError(f"native kernels run on the CPU, not on {device!r}")
        self.graph: Graph = load_graph(folder)
        self.description = {"kernels": "torch", "arithmetic": arithmetic, "device": device}
        with self._sound():
            self.steps = lower(self.graph, arithmetic)
            self._executor = self._prepared(kernels, device, threads)

    def _prepared(
        self, kernels: str, device: str, threads: int | None
    ) -> NativeExecutor | TorchExecutor:
        if kernels != "torch" and device == "cpu":
            try:
                native = NativeExecutor(self.graph, self.steps, threads)
                self.description["kernels"] = f"native ({native.instruction_set})"
                return native
            except Unsupported as error:
                if kernels == "native":
                    raise EngineError(f"no native kernels: {error}") from error
                self.description["reason"] = str(error)
        return _torch(self.graph, self.steps, device, threads)

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """What goes wrong inside is the graph's fault: its values are checked as they are used."""
        try:
            yield
        except LprnetError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            raise EngineError(
                f"{self.graph.folder}: this graph cannot be run ({type(error).__name__}: {error}). "
                "Compile the model again; if it is what the compiler made, report this."
            ) from error

    @property
    def batch(self) -> int:
        """Batch size the graph was compiled for."""
        return self.graph.batch

    @property
    def names(self) -> tuple[str, ...]:
        """All layers, in execution order."""
        return tuple(s.name for s in self.steps if not isinstance(s, Constant))

    def run(self, inputs: Arrays) -> np.ndarray:
        """Logits of any number of images.

        Parameters
        ----------
        inputs
            float32 ``[N, 3, 24, 94]``, or what the graph's input is (uint8 with fused
            preprocessing); for a graph with several, ``{name: array}``.

        Returns
        -------
        float32 ``[N, classes, 18]``. A graph compiled for batch B with ``batch_mean="batch"``
        couples the images of a group of B, in order; the last group is filled up with its last
        image.

        Raises
        ------
        ParameterError
            For a graph with several outputs, which `tensors` gives by name.
        """
        if len(self.graph.outputs) > 1:
            raise ParameterError(
                f"the graph has {len(self.graph.outputs)} outputs; take them by "
                "tensors(inputs, emulator.graph.outputs)"
            )
        return self.tensors(inputs, [self.graph.output])[self.graph.output]

    def tensors(
        self, inputs: Arrays, names: Iterable[str] | None = None, raw: bool = False
    ) -> dict[str, np.ndarray]:
        """Output of layers: dequantized (float32), or as stored with ``raw=True``.

        Parameters
        ----------
        names
            Layers; all by default.

        Returns
        -------
        ``{name: float32 [N, ...]}``; a tensor that a compiled batch shares has one entry for it.
        Where the first axis is not the batch, those of the compiled batches follow one another.
        """
        names = list(self.names) if names is None else list(names)
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ParameterError(f"unknown layer {unknown[0]!r}; the graph has {self.names}")
        inputs = self._check(inputs)
        count, batch = len(inputs[self.graph.input]), self.batch
        if not count:
            return {n: np.zeros((0, *self.graph.types[n].shape[1:]), np.float32) for n in names}
        missing = -count % batch
        if missing:
            inputs = {
                name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
                for name, array in inputs.items()
            }
        with self._sound():
            stored = self._executor.run(inputs, names)
        results = {}
        for name in names:
            values, kind = stored[name], self.graph.types[name]
            if kind.shape[0] == batch:
                values = values[:count]
            if kind.is_quantized and not raw:
                values = (values - np.float32(kind.zero_point)) * np.float32(kind.scale)
            results[name] = values
        return results

    def _check(self, inputs: Arrays) -> dict[str, np.ndarray]:
        arrays = self.graph.named(inputs)
        if set(arrays) != set(self.graph.inputs) or len(set(map(len, arrays.values()))) > 1:
            raise EngineError(
                f"inputs {sorted(arrays)}; the graph takes "
                f"{', '.join(self.graph.inputs)}, of one length"
            )
        return {name: self._checked(name, array) for name, array in arrays.items()}

    def _checked(self, name: str, inputs: np.ndarray) -> np.ndarray:
        wanted = self.graph.types[name]
        inputs = np.asarray(inputs)
        if inputs.ndim != len(wanted.shape) or inputs.shape[1:] != wanted.shape[1:]:
            raise EngineError(
                f"inputs of shape {inputs.shape}; the graph takes [N, "
                f"{', '.join(map(str, wanted.shape[1:]))}]"
            )
        dtype = np.float32 if wanted.is_float else np.dtype(wanted.storage.replace("u", "uint"))
        if inputs.dtype != dtype:
            raise EngineError(f"inputs of dtype {inputs.dtype}; the graph takes {np.dtype(dtype)}")
        return np.ascontiguousarray(inputs)


def _torch(
    graph: Graph, steps: tuple[Step, ...], device: str, threads: int | None
) -> TorchExecutor:
    """The executor in PyTorch, which is imported only where no native one can be made."""
    from lprnet_nb.runtime.emulator.torch_executor import TorchExecutor

    return TorchExecutor(graph, steps, device, threads)
