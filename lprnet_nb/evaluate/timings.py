"""Where the time goes, in the vendor's columns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ParameterError

STAGES = ("decode", "preprocess", "inference", "postprocess")


class Stopwatch:
    """Adds up wall-clock time per stage.

    The stages are those of the vendor's tables: `decode` reads image files, `preprocess` resizes
    and normalizes, `inference` runs the network, `postprocess` turns logits into text.

    Examples
    --------
    >>> watch = Stopwatch()
    >>> with watch("inference", images=4):
    ...     pass
    >>> sorted(watch.ms_per_image())
    ['decode', 'inference', 'postprocess', 'preprocess']
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.images = dict.fromkeys(STAGES, 0)

    @contextmanager
    def __call__(self, stage: str, images: int) -> Iterator[None]:
        """Time the body of a `with` as work of one stage on so many images."""
        if stage not in STAGES:
            raise ParameterError(f"stage {stage!r} is unknown. Known: {', '.join(STAGES)}.")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
            self.images[stage] += images

    def ms_per_image(self) -> dict[str, float | None]:
        """Mean milliseconds an image by stage; None for a stage that was not timed."""
        return {
            stage: 1000 * self.seconds[stage] / self.images[stage] if self.images[stage] else None
            for stage in STAGES
        }
