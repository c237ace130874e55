"""The pictures at the top of the READMEs: `python -m lprnet_nb.report.pictures [REPORT]`.

Plates are the generator's own; the report is photographed in Chromium, which must be on PATH.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .. import children
from ..datasets.generate import generate_plates
from ..errors import DataError, LprnetError
from ..files import atomic_write
from ..places import repository

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COLUMNS, ROWS, ZOOM = 6, 2, 2
COLOURS = 128  # light enough for a page, and no worse to look at
WINDOW = (1100, 900)  # pixels


def plates_picture() -> bytes:
    """PNG of generated plates in a grid, the same each time."""
    plates = generate_plates(COLUMNS * ROWS, 4, workers=0).images
    edge = np.pad(plates, ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=255)
    high, wide = edge.shape[1:3]
    grid = edge.reshape(ROWS, COLUMNS, high, wide, 3).swapaxes(1, 2)
    sheet = grid.reshape(ROWS * high, COLUMNS * wide, 3).repeat(ZOOM, 0).repeat(ZOOM, 1)
    return _small(Image.fromarray(cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB)))


def _small(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.convert("RGB").quantize(COLOURS).save(data, format="PNG", optimize=True)
    return data.getvalue()


def report_picture(index: Path) -> bytes:
    """PNG of the top of a report's ``index.html``.

    Raises
    ------
    DataError
        When the report is not there.
    LprnetError
        When there is no Chromium, or it makes no picture.
    """
    if not index.is_file():
        raise DataError(f"{index} is not there. Make it first: scripts/report.sh")
    browser = next((path for path in map(children.program, BROWSERS) if path), None)
    if browser is None:
        raise LprnetError("no Chromium is on PATH: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        done = children.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/profile",
                f"--screenshot={shot}",
                "--window-size={},{}".format(*WINDOW),
                index.resolve().as_uri(),
            ],
            timeout=120,
        )
        if not shot.is_file():
            raise LprnetError(f"{browser} made no picture of {index}: {done.stderr[-300:]}")
        with Image.open(shot) as picture:
            return _small(picture)


def write_pictures(root: Path, report: Path) -> list[Path]:
    """Write ``docs/figures/plates.png`` and ``report.png`` below `root`."""
    folder = root / "docs" / "figures"
    return [
        atomic_write(folder / "plates.png", plates_picture()),
        atomic_write(folder / "report.png", report_picture(report / "index.html")),
    ]


if __name__ == "__main__":
    made = Path(sys.argv[1]) if sys.argv[1:] else repository() / "reports" / "full"
    for path in write_pictures(repository(), made):
        print(path)
