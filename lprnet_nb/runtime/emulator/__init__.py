"""The fast exact engine: the compiler's quantized graph on ordinary CPU kernels."""

from lprnet_nb.runtime.emulator.executor import Emulator
from lprnet_nb.runtime.emulator.graph import Graph, load_graph

__all__ = ["Emulator", "Graph", "load_graph"]
