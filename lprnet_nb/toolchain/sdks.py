"""Which release of TPU-MLIR goes with which SDK, as far as the vendor's public documents say.

They say it in one place: the README of sophon-demo asks, for each version of the samples, for a
TPU-MLIR and a SOPHONSDK, both "at least". That is no promise of what a runtime takes: no public
document was found that names the newest release whose BModels the runtime of an SDK takes. A
BM1688's and a CV186X's SDK is another one than that of BM1684 and BM1684X.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SOURCE = "https://github.com/sophgo/sophon-demo/blob/release/README.md"
OLDER, NEWER = ("BM1684", "BM1684X"), ("BM1688", "CV186X")


@dataclass(frozen=True)
class SdkRow:
    """What versions of the samples ask for.

    Parameters
    ----------
    chips
        Of the SDK.
    sdk
        SOPHONSDK, at least.
    tpu_mlir
        TPU-MLIR, at least.
    samples
        First and last version of sophon-demo that asks for both.
    source
        Where it says so.
    """

    chips: tuple[str, ...]
    sdk: str
    tpu_mlir: str
    samples: tuple[str, str]
    source: str = SOURCE


SDKS: tuple[SdkRow, ...] = (
    SdkRow(OLDER, "v23.07.01", "1.2.2", ("0.1.7", "0.1.10")),
    SdkRow(OLDER, "v23.10.01", "1.6", ("0.2.0", "0.2.0")),
    SdkRow(OLDER, "v23.10.01", "1.7", ("0.2.1", "0.2.1")),
    SdkRow(OLDER, "v23.10.01", "1.8", ("0.2.2", "0.2.2")),
    SdkRow(OLDER, "v24.04.01", "1.8", ("0.2.3", "0.2.3")),
    SdkRow(OLDER, "v24.04.01", "1.9", ("0.2.4", "0.2.8")),
    SdkRow(OLDER, "v24.04.01", "1.15", ("0.2.9", "0.3.6")),
    SdkRow(NEWER, "v1.5.0", "1.6", ("0.2.0", "0.2.0")),
    SdkRow(NEWER, "v1.5.0", "1.7", ("0.2.1", "0.2.1")),
    SdkRow(NEWER, "v1.6.0", "1.8", ("0.2.2", "0.2.2")),
    SdkRow(NEWER, "v1.7.0", "1.8", ("0.2.3", "0.2.3")),
    SdkRow(NEWER, "v1.7.0", "1.9", ("0.2.4", "0.2.5")),
    SdkRow(NEWER, "v1.7.0", "1.10", ("0.2.6", "0.2.8")),
    SdkRow(NEWER, "v1.7.0", "1.15", ("0.2.9", "0.3.6")),
)


def sdk_rows() -> list[dict[str, Any]]:
    """The table, JSON-able."""
    return [asdict(row) for row in SDKS]


def sdk_markdown() -> str:
    """The table for the documentation."""
    lines = [
        "| Chips | SOPHONSDK, at least | TPU-MLIR, at least | sophon-demo |",
        "|---|---|---|---|",
    ]
    for row in SDKS:
        samples = " to ".join(dict.fromkeys(row.samples))
        lines.append(f"| {', '.join(row.chips)} | {row.sdk} | {row.tpu_mlir} | {samples} |")
    return "\n".join(lines)
