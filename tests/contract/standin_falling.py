"""A stand-in for sail that takes the process down on INT8 models and misreads a batch of four."""

import os

from standin_sail import *  # noqa: F403
from standin_sail import Engine as _Engine

__version__ = "falling"


class Engine(_Engine):
    def __init__(self, path, *rest):
        super().__init__(path, *rest)
        self._int8 = "int8" in path

    def process(self, graph, inputs, *rest, **options):
        if self._int8:
            os.abort()
        found = super().process(graph, inputs, *rest, **options)
        if found and next(iter(inputs.values())).shape[0] == 4:
            return {name: array + 1 for name, array in found.items()}
        return found
