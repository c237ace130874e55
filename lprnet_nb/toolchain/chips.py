"""Sophgo chips and what each can be compiled for."""

from __future__ import annotations

from ..errors import ParameterError

CHIPS: tuple[str, ...] = ("BM1684", "BM1684X", "BM1688", "CV186X")
PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8")

# TPU cores that one call can be spread over.
CORES = {"BM1684": 1, "BM1684X": 1, "BM1688": 2, "CV186X": 1}


def parse_chip(text: str) -> str:
    """Chip name in upper case, from any case.

    Raises
    ------
    ParameterError
        When it is not one of `CHIPS`.
    """
    chip = text.strip().upper()
    if chip not in CHIPS:
        raise ParameterError(f"chip {text!r} is not known. Choose from {', '.join(CHIPS)}.")
    return chip


def parse_precision(text: str) -> str:
    """Precision in lower case, from any case.

    Raises
    ------
    ParameterError
        When it is not one of `PRECISIONS`.
    """
    precision = text.strip().lower()
    if precision not in PRECISIONS:
        raise ParameterError(
            f"precision {text!r} is not known. Choose from {', '.join(PRECISIONS)}."
        )
    return precision


def supports(chip: str, precision: str) -> bool:
    """Whether a chip has units for a precision: the BM1684 has no 16-bit floats."""
    return not (chip == "BM1684" and precision in ("fp16", "bf16"))


def check_supported(chip: str, precision: str) -> None:
    """Raise a ParameterError when `chip` cannot do `precision`."""
    if not supports(chip, precision):
        can = [p for p in PRECISIONS if supports(chip, p)]
        raise ParameterError(f"{chip} has no {precision}. Choose from {', '.join(can)}.")


def check_cores(chip: str, cores: int) -> None:
    """Raise a ParameterError when `chip` has not so many TPU cores."""
    if not 1 <= cores <= CORES[chip]:
        raise ParameterError(f"cores={cores} is not possible: {chip} has {CORES[chip]}.")
