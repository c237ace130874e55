"""LPRNet from PyTorch to a Sophgo TPU: the logic behind the notebooks."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# A few bytes can say that they are a picture of a billion pixels. OpenCV reads this once, when it
# is loaded; 67 million are more than any camera that sees plates has.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
# Where it is imported, onnxruntime writes an identifier of the device below the home folder and a
# queue of events that it would send.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
