"""Names of LPRNet's tensors that reading and starting from its state dicts go by."""

from __future__ import annotations

FIRST = "backbone.0.weight"  # [64, planes of a picture, 3, 3]
LAST = "container.0.weight"  # where its name ends, a prefix ends
# Layers with an output channel a class.
PER_CLASS = ("backbone.20.", "backbone.21.", "container.0.")
# Of these, the one that joins the maps of the global context.
JOIN = "container"
