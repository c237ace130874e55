"""What the compiler predicts of a BModel's run: which unit works on which layer, and when.

The compiler writes ``compiler_profile_0.txt`` (not for the BM1684, of which it predicts nothing):
one line per command, the compute unit's in the left column, the memory unit's in the right one,
each as ``Conv2D_24|CONV|s:1662|b:15|g:2|e:2167|t:506``: layer, kind, start, ids, end, duration in
cycles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..errors import ToolchainError

COMPUTE, MEMORY = "compute", "memory"  # the vendor's BD (or TIU) and GDMA
_COMMAND = re.compile(
    r"(?<![\w.])([\w.]+)\|(\w+)\|s:(\d+)\|b:\d+\|g:\d+\|e:(\d+)\|t:(\d+)"
    r"(?:\|dr:\d+\|sz:(\d+))?"
)
_FOOT = {
    "cycles": re.compile(r"total_cycle:\s*(\d+)"),
    "operations": re.compile(r"flops:\s*(\d+)"),
    "milliseconds": re.compile(r"runtime:\s*([0-9.]+)\s*ms"),
    "traffic": re.compile(r"DDR BW USAGE\s*:\s*([0-9.]+)%"),
}


@dataclass(frozen=True)
class Command:
    """One command of one unit.

    Attributes
    ----------
    layer
        The compiler's number and kind, such as ``Conv2D_24`` or ``Load_19``.
    unit
        `COMPUTE` or `MEMORY`.
    kind
        The instruction, such as ``CONV``.
    start, end
        Cycles since the start of the call, both included.
    size
        Bytes moved; 0 for compute.
    """

    layer: str
    unit: str
    kind: str
    start: int
    end: int
    size: int

    @property
    def cycles(self) -> int:
        """Duration."""
        return self.end - self.start + 1


class LayerCycles(TypedDict):
    """Cycles that one unit spends on one layer."""

    name: str
    unit: str
    cycles: int


@dataclass(frozen=True)
class Profile:
    """A predicted run.

    Attributes
    ----------
    commands
        In the order of the file.
    cycles
        Of the whole call.
    milliseconds
        Of the whole call, at the chip's clock: 1 GHz for the BM1684X, 0.9 GHz for the BM1688.
    operations
        Arithmetic operations as the compiler counts them.
    traffic_percent
        Share of the memory's bandwidth that is used.
    """

    commands: tuple[Command, ...]
    cycles: int
    milliseconds: float
    operations: int
    traffic_percent: float

    def by_layer(self) -> list[LayerCycles]:
        """One for each layer and unit, in order of their first start."""
        total: dict[tuple[str, str], int] = {}
        for command in sorted(self.commands, key=lambda c: c.start):
            key = (command.layer, command.unit)
            total[key] = total.get(key, 0) + command.cycles
        return [
            {"name": name, "unit": unit, "cycles": cycles} for (name, unit), cycles in total.items()
        ]

    def by_kind(self) -> dict[str, int]:
        """Cycles by kind of layer (``Conv2D``, ``Load``, ...), most first."""
        total: dict[str, int] = {}
        for command in self.commands:
            kind = command.layer.rsplit("_", 1)[0]
            total[kind] = total.get(kind, 0) + command.cycles
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def busy(self) -> dict[str, float]:
        """Share of the call in which each unit works, and in which both do (``"both"``)."""
        parts = {
            unit: _merged((c.start, c.end + 1) for c in self.commands if c.unit == unit)
            for unit in (COMPUTE, MEMORY)
        }
        either = _merged([*parts[COMPUTE], *parts[MEMORY]])
        length = {
            name: sum(end - start for start, end in spans)
            for name, spans in {**parts, "either": either}.items()
        }
        both = length[COMPUTE] + length[MEMORY] - length["either"]
        return {
            COMPUTE: length[COMPUTE] / self.cycles,
            MEMORY: length[MEMORY] / self.cycles,
            "both": both / self.cycles,
        }


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def parse_profile(text: str) -> Profile:
    """Read the text of a profile.

    Raises
    ------
    ToolchainError
        When it is not a profile.

    Examples
    --------
    >>> profile = parse_profile('''ENGINE_BD                       ENGINE_GDMA
    ...                                   Load_1|GDMA_TENSOR|s:0|b:0|g:1|e:499|t:500|dr:0|sz:64|bw:1
    ... Conv2D_2|CONV|s:500|b:1|g:1|e:999|t:500
    ... API_END total_cycle:1000|b:1|g:1
    ... DDR BW USAGE : 50.0%
    ... flops: 7, runtime: 0.001ms, ComputationAbility: 0.1T''')
    >>> profile.by_kind(), profile.busy()["both"]
    ({'Load': 500, 'Conv2D': 500}, 0.0)
    """
    foot = {name: pattern.findall(text) for name, pattern in _FOOT.items()}
    try:
        commands = tuple(
            Command(
                layer,
                MEMORY if kind.startswith(("GDMA", "SDMA")) else COMPUTE,
                kind,
                int(start),
                int(end),
                int(size or 0),
            )
            for layer, kind, start, end, _, size in _COMMAND.findall(text)
        )
        missing = [name for name, found in foot.items() if not found and name != "traffic"]
        if missing or not commands:
            raise ValueError(f"no {missing[0] if missing else 'commands'} in it")
        return Profile(
            commands,
            int(foot["cycles"][-1]),
            float(foot["milliseconds"][-1]),
            int(foot["operations"][-1]),
            float((foot["traffic"] or ["0"])[-1]),
        )
    except ValueError as error:  # a number may have 5,000 digits, or two points
        raise ToolchainError(
            f"this is no compiler profile: {error}. Give the compiler_profile_0.txt of a compile."
        ) from error


def read_profile(folder: str | Path) -> Profile | None:
    """The profile in a compile's folder, or None where the compiler left none (BM1684)."""
    path = Path(folder) / "compiler_profile_0.txt"
    return parse_profile(path.read_text("utf8", "replace")) if path.exists() else None


def latency_by_layer(folder: str | Path) -> list[LayerCycles]:
    """`Profile.by_layer` of a compile's folder, units by the vendor's names (BD, GDMA).

    Empty where the compiler left no profile.
    """
    profile = read_profile(folder)
    vendor = {COMPUTE: "BD", MEMORY: "GDMA"}
    rows = profile.by_layer() if profile else []
    return [LayerCycles(name=r["name"], unit=vendor[r["unit"]], cycles=r["cycles"]) for r in rows]
