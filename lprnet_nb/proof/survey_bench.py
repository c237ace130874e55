"""What CCPD costs: time and memory of a survey by the number of images, and what all of it would.

Scenes of CCPD's size are drawn, each with a generated plate seen at an angle, and repeated under
other names by hard links; to the reader they are as many images.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .. import children
from ..datasets import ccpd
from ..datasets.generate import generate_plates
from ..errors import EngineError, ParameterError
from ..files import private_folder
from ..measure.parameters import check
from ..toolchain.bmodel import BModel
from .benches import cpu_seconds

SCENE = (1160, 720)  # height and width of CCPD's pictures, pixels
SCENES = 40  # that differ; more would only fill the disk
WHOLE = 300_000  # images of CCPD, about
CORES = (2, 16, 128)
LONGEST_SURVEY = 86_400.0  # seconds, of one number of images


def write_scenes(folder: Path, count: int) -> Path:
    """Write `count` CCPD-named pictures, `SCENES` of them different, the rest hard links."""
    plates = generate_plates(SCENES, seed=11)
    folder.mkdir(parents=True)
    dice = np.random.default_rng(12)
    stems = []
    for number in range(min(count, SCENES)):
        scene = cv2.resize(
            dice.integers(0, 256, (29, 18, 3), np.uint8), SCENE[::-1], interpolation=cv2.INTER_CUBIC
        )
        left, top = int(dice.integers(50, 350)), int(dice.integers(300, 700))
        corners = [
            (left + 280, top + 100),
            (left + 8, top + 92),
            (left, top),
            (left + 272, top + 8),
        ]  # bottom right, bottom left, top left, top right
        flat = [(ccpd.WIDTH, ccpd.HEIGHT), (0, ccpd.HEIGHT), (0, 0), (ccpd.WIDTH, 0)]
        warp = cv2.getPerspectiveTransform(
            np.array(flat, np.float32), np.array(corners, np.float32)
        )
        cv2.warpPerspective(
            plates.images[number], warp, SCENE[::-1], scene, borderMode=cv2.BORDER_TRANSPARENT
        )
        text = plates.known_labels[number]
        indices = [
            ccpd.PROVINCES.index(text[0]),
            ccpd.LETTERS.index(text[1]),
            *(ccpd.OTHERS.index(character) for character in text[2:]),
        ]
        stems.append(
            "-".join(
                [
                    "90_90",
                    f"{left}&{top}_{left + 280}&{top + 100}",
                    "_".join(f"{x}&{y}" for x, y in corners),
                    "_".join(map(str, indices)),
                    "100",
                    "20",
                ]
            )
        )
        path = folder / f"0-{stems[number]}.jpg"
        path.write_bytes(cv2.imencode(".jpg", scene)[1].tobytes())
    for number in range(SCENES, count):
        stem = stems[number % SCENES]
        os.link(folder / f"0-{stem}.jpg", folder / f"{number}-{stem}.jpg")
    return folder


def bench_ccpd(
    counts: Sequence[int],
    *,
    chip: str = "BM1684X",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Survey so many images, each number in a process of its own and none of them seen before.

    Parameters
    ----------
    counts
        Numbers of images, rising.
    chip
        Whose INT8 BModel reads them, on the emulator.
    report
        Called with a line for each.

    Returns
    -------
    dict
        JSON-able. ``rows`` of ``images``, ``seconds``, ``cpu_seconds``, ``peak_mib`` (of the
        process that hands out and gathers, and of the largest worker), ``exact_match``; ``slope``:
        processor seconds an image from the smallest to the largest number; ``whole``: hours of
        300,000 images by cores, from the slope alone, as if disks and scheduler kept up.
    """
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 1:
        raise ParameterError("give rising numbers of images, such as 1000,10000.")
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="ccpd-", dir=private_folder()) as folder:
            write_scenes(Path(folder) / "scenes", count)
            done = children.run(
                [sys.executable, "-P", "-m", __name__, Path(folder) / "scenes", chip],
                timeout=LONGEST_SURVEY,
            )
        if done.returncode:
            raise EngineError(f"the survey of {count} images failed: {done.stderr[-1500:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        report(json.dumps(rows[-1]))
    first, last = rows[0], rows[-1]
    images = last["images"] - first["images"]
    slope = (
        (last["cpu_seconds"] - first["cpu_seconds"]) / images
        if images
        else last["cpu_seconds"] / last["images"]
    )
    return {
        "bench": "ccpd",
        "chip": chip,
        "cores": len(os.sched_getaffinity(0)),
        "rows": rows,
        "slope": {"cpu_seconds_per_image": round(slope, 6)},
        "whole": {
            "images": WHOLE,
            "hours_by_cores": {
                str(cores): round(WHOLE * slope / cores / 3600, 3) for cores in CORES
            },
        },
    }


def int8_model(chip: str) -> BModel:
    """This project's own weights as an INT8 BModel, for measurements."""
    from ..measure.data import datasets_for
    from ..measure.models import compile_all

    parameters = check(DATA="generated", CHIPS=chip, PRECISIONS="int8", STRATEGIES="kl", IMAGES=20)
    return compile_all(parameters, datasets_for(parameters), progress=False)[0].bmodel


def main(folder: str, chip: str) -> None:
    """One survey, its cost as a line of JSON."""
    from ..measure.survey import survey

    model = int8_model(chip)
    before = cpu_seconds()
    found = survey(model, folder, progress=False).facts()
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        json.dumps(
            {
                "images": found["images"],
                "pieces": found["pieces"],
                "seconds": found["seconds"],
                "cpu_seconds": round(cpu_seconds() - before, 2),
                "peak_mib": {"this": round(own), "largest_worker": round(workers)},
                "exact_match": found["exact_match"],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
