"""Every figure of the notebooks and the report: functions take values and give a `Figure`."""

from __future__ import annotations

from .comparison import (
    accuracy_coverage,
    confusions,
    fidelity,
    gallery,
    paired,
    per_character,
    reliability,
)
from .compiled import latency, memory, slowest_layers, timeline
from .decoding import ctc_paths, step_text, timings
from .network import agreement, coupling, network_diagram, pool_equivalence, subnormals, workflow
from .quantization import (
    channel_ranges,
    draw_histogram,
    draw_noise,
    histogram,
    layer_costs,
    layer_fidelity,
    quantization_noise,
    threshold_hand,
)
from .style import as_svg, chinese_fonts, crops, forest, redrawn

__all__ = [
    "accuracy_coverage",
    "agreement",
    "as_svg",
    "channel_ranges",
    "chinese_fonts",
    "confusions",
    "coupling",
    "crops",
    "ctc_paths",
    "draw_histogram",
    "draw_noise",
    "fidelity",
    "forest",
    "gallery",
    "histogram",
    "latency",
    "layer_costs",
    "layer_fidelity",
    "memory",
    "network_diagram",
    "paired",
    "per_character",
    "pool_equivalence",
    "quantization_noise",
    "redrawn",
    "reliability",
    "slowest_layers",
    "step_text",
    "subnormals",
    "threshold_hand",
    "timeline",
    "timings",
    "workflow",
]
