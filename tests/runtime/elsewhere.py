"""The native kernels built for another processor and run by an emulator of it (qemu-user)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lprnet_nb.runtime.emulator import native

COMPILER, RUNNERS = "aarch64-linux-gnu-gcc", ("qemu-aarch64", "qemu-aarch64-static")


class Elsewhere:
    """What `native.library` gives, of an ARM of 64 bits without extensions.

    Skips the test where compiler or emulator is missing (gcc-aarch64-linux-gnu, qemu-user).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, folder / "elsewhere"
        runner = next(filter(None, map(shutil.which, RUNNERS)), None)
        if runner is None or shutil.which(COMPILER) is None:
            pytest.skip(f"no {COMPILER} or no {RUNNERS[0]} here")
        self.runner = runner
        flags = [flag for flag in native.FLAGS if flag not in ("-fPIC", "-shared")]
        source = Path(__file__).with_name("elsewhere.c")
        given = ["-march=armv8-a", "-static", f'-DSOURCE="{native.SOURCE}"', "-o", self.program]
        subprocess.run([COMPILER, *flags, *given, source, "-lm"], check=True)
        said = subprocess.run([runner, self.program], check=True, capture_output=True, text=True)
        *numbers, name = said.stdout.split(maxsplit=5)
        self.numbers, self.name = [*map(int, numbers)], name.strip()
        self.executor: Any = None

    def vector_lanes(self) -> int:
        return self.numbers[0]

    def dot_step(self) -> int:
        return self.numbers[1]

    def most_vectors(self) -> int:
        return self.numbers[2]

    def usual_vectors(self) -> int:
        return self.numbers[3]

    def instruction_set(self) -> bytes:
        return self.name.encode()

    def run_program(self, code: Any, count: Any, pointers: Any, images: Any) -> None:
        """As the C function, on copies of everything that the pointers lead to."""
        program, graph, n = self.executor._program, self.executor.graph, images.value
        places = {array.ctypes.data: 1 + k for k, array in enumerate(program.constants)}
        ops = (type(code[0]) * count.value)(*code)
        for op in ops:
            for k, address in enumerate(op.p):
                op.p[k] = places[address] if address else None
        sizes = [size * n + 256 for size in program.sizes]
        for k, name in enumerate(graph.inputs):
            kind = graph.types[name]
            sizes[k] = int(np.prod(kind.shape)) // graph.batch * n * (4 if kind.is_float else 1)
        buffers = [ctypes.string_at(*each) for each in zip(pointers, sizes, strict=True)]
        blocks = [*(array.tobytes() for array in program.constants), *buffers]
        head = [len(ops), len(program.constants), len(buffers), n, *map(len, blocks)]
        given, made = self.folder / "given", self.folder / "made"
        given.write_bytes(np.array(head, np.int64).tobytes() + bytes(ops) + b"".join(blocks))
        subprocess.run([self.runner, self.program, given, made], check=True)
        left = made.read_bytes()
        for pointer, size in zip(pointers, sizes, strict=True):
            ctypes.memmove(pointer, left[:size], size)
            left = left[size:]
