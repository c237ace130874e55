"""Quantized graphs by any release, without generating code: many in one start of its tools.

`lowering.Quantizer` stays open for the pinned release and calibrates too; the tools inside other
releases go by other names, so that of them only the step that all have is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..cache import artifact
from .compile import CalibrationTable, TopGraph, _check_fits, _copy_rewritten_weights, float_lines
from .environment import compiler
from .process import kept_log
from .strategies import Strategy


@dataclass(frozen=True)
class Lowering:
    """What to quantize: `graph` of the release, for a chip, with thresholds.

    Parameters
    ----------
    graph, chip, strategy, table
        As `lowering.Quantizer.lower` takes them.
    """

    graph: TopGraph
    chip: str
    strategy: Strategy
    table: CalibrationTable

    def key(self) -> dict:
        """All that decides its result, the release aside."""
        return {
            "top": self.graph.digest,
            "chip": self.chip,
            "table": self.table.digest,
            "float": float_lines(self.graph, self.chip, self.strategy, self.table),
            "asymmetric": not self.strategy.symmetric,
        }


def lower_all(release: str, wanted: Sequence[Lowering]) -> list[Path]:
    """Quantize by a release; gives the folders that the emulator reads, in the order asked for.

    Raises
    ------
    ToolchainError
        With the end of the log.
    """
    tool = compiler(release)
    keys = [one.key() for one in wanted]

    def build(folder: Path) -> None:
        requests = []
        for index, one in enumerate(wanted):
            place = folder / str(index)
            place.mkdir()
            for path in one.graph.folder.iterdir():
                if path.name.startswith(one.graph.network.name):
                    shutil.copy(path, place / path.name)
            _check_fits(one.table, one.graph)
            _copy_rewritten_weights(one.graph, one.strategy, one.table, place)
            shutil.copy(one.table.path, place / "calibration_table")
            lines = keys[index]["float"]
            if lines:
                (place / "float_layers").write_text("\n".join(lines) + "\n", "utf8")
            asymmetric = keys[index]["asymmetric"]
            requests.append({"folder": str(place), "chip": one.chip, "asymmetric": asymmetric})
        asked = folder / "requests.json"
        asked.write_text(json.dumps(requests), "utf8")
        inside = resources.files(__package__).joinpath("inside", "lower_graphs.py")
        with kept_log(folder, "lowering.log") as log, resources.as_file(inside) as script:
            tool.run(["python", script, asked], cwd=folder, log=log, what="quantizing")
        asked.unlink()
        for place in (folder / str(index) for index in range(len(wanted))):
            for path in place.iterdir():
                if path.name != "graph":
                    path.unlink()

    inputs = {"tpu_mlir": tool.version, "wanted": keys}
    made = artifact("lowered-by", inputs, build)
    return [made / str(index) / "graph" for index in range(len(wanted))]
