"""A recognizer's two sides: what it takes of a picture, and how its output is laid out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .images import PUBLISHED_INPUT, InputFormat

LAYOUT = "nct"  # of logits as every later stage takes them: image, class, time step
KINDS = ("ctc", "logits")


@dataclass(frozen=True)
class Interface:
    """What is known of a recognizer from outside.

    Parameters
    ----------
    input
        What it takes.
    layout
        Axes of its output, a letter each: ``n`` image, ``c`` class, ``t`` time step, ``1`` an axis
        of one. Without ``t`` there is one step.
    kind
        "ctc" (a class a time step, one of them the blank), or "logits" (compared as they are).

    Raises
    ------
    DataError
        For an unknown kind, or a layout that lacks an axis or has one twice.
    """

    input: InputFormat = PUBLISHED_INPUT
    layout: str = LAYOUT
    kind: str = "ctc"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind {self.kind!r} is not known. Choose {', '.join(KINDS)}.")
        axes = sorted(self.layout.replace("1", ""))
        if axes != sorted(LAYOUT) and not (axes == ["c", "n"] and self.kind == "logits"):
            raise DataError(
                f"layout {self.layout!r} does not say which axis is what: write each of n (image), "
                'c (class) and t (time step) once, and 1 for an axis of one, such as "ntc"; '
                't may be missing in "logits" alone.'
            )

    def sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Axes of an output by letter.

        >>> Interface(layout="nc1t").sizes((4, 68, 1, 18))
        {'n': 4, 'c': 68, '1': 1, 't': 18}
        """
        return dict(zip(self.layout, shape, strict=True))

    def arranged(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs as ``[N, classes, steps]``.

        >>> Interface(layout="tnc").arranged(np.zeros((18, 1, 68))).shape
        (1, 68, 18)
        """
        if self.layout == LAYOUT:
            return outputs
        axes = self.layout.replace("1", "")
        kept = outputs.reshape([n for n, axis in zip(outputs.shape, self.layout) if axis != "1"])
        if "t" not in axes:
            axes, kept = axes + "t", kept[..., None]
        return np.ascontiguousarray(kept.transpose([axes.index(axis) for axis in LAYOUT]))

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Interface:
        """From what `described` gave, by way of JSON."""
        taken = dict(values["input"])
        taken |= {name: tuple(taken[name]) for name in ("mean", "scale")}
        return cls(InputFormat(**taken), values["layout"], values["kind"])


PUBLISHED_INTERFACE = Interface()
