"""Plate crops as every stage takes them, and the one preprocessing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from ..cache import array_digest, digest
from ..errors import DataError, ParameterError

HEIGHT, WIDTH = 24, 94  # pixels, the input of LPRNet (arXiv 1806.10447, table 2)
MEAN, SCALE = 127.5, 0.0078125  # sirius-ai/LPRNet_Pytorch, data/load_data.py: (x - 127.5) / 128
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class PlateImages:
    """A set of plate crops.

    Parameters
    ----------
    name
        What the set is called in results.
    images
        uint8 BGR ``[N, 24, 94, 3]``.
    names
        One file name per image.
    labels
        One plate text per image, or None where the truth is not known.
    """

    name: str
    images: np.ndarray
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.names), HEIGHT, WIDTH, 3)
        if self.images.shape != expected or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} "
                f"{list(self.images.shape)}, expected uint8 {list(expected)} in BGR."
            )
        if self.labels is not None and len(self.labels) != len(self.names):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self.names)} images.")
        wrong = [name for name in self.names if not _is_utf8(name)]
        if wrong:
            raise DataError(
                f"{self.name}: file name {wrong[0]!r} is not UTF-8 and cannot be "
                "written into results. Rename it."
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over pixels, file names and labels."""
        return digest(
            {"pixels": array_digest(self.images), "names": self.names, "labels": self.labels}
        )

    def take(self, indices: Sequence[int] | np.ndarray | slice) -> PlateImages:
        """The images at `indices` (integers or a slice), in that order."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        chosen = [int(i) for i in indices]
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return PlateImages(
            self.name, self.images[chosen], tuple(self.names[i] for i in chosen), labels
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf8")
    except UnicodeEncodeError:
        return False
    return True


def preprocess(images: np.ndarray) -> np.ndarray:
    """Turn crops into the network's input: ``(x - 127.5) * 0.0078125``, BGR kept, NCHW.

    Parameters
    ----------
    images
        uint8 ``[N, 24, 94, 3]``.

    Returns
    -------
    np.ndarray
        float32 ``[N, 3, 24, 94]``, contiguous: torch's 3-D pool refuses a transposed view.

    Examples
    --------
    >>> preprocess(np.full((1, 24, 94, 3), 255, np.uint8))[0, 0, 0, 0].item()
    0.99609375
    """
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return (planes.astype(np.float32) - np.float32(MEAN)) * np.float32(SCALE)


def decode_image(raw: bytes | np.ndarray, name: str) -> np.ndarray:
    """Decode an encoded image to uint8 BGR ``[H, W, 3]``; `name` is for the error."""
    buffer = np.frombuffer(raw, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if buffer.size else None
    except (cv2.error, MemoryError):  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise DataError(
            f"{name} cannot be decoded as an image. Remove it from the folder or "
            "replace it with a readable JPEG, PNG or BMP."
        )
    return image


def fit(image: np.ndarray) -> np.ndarray:
    """Plain resize to 24x94 (no letterbox: the weights were trained so), uint8 BGR."""
    if image.shape[:2] == (HEIGHT, WIDTH):
        return image
    return cv2.resize(image, (WIDTH, HEIGHT))


def read_image(path: str | Path) -> np.ndarray:
    """Read one crop as uint8 BGR ``[24, 94, 3]``, whatever characters its name has.

    Raises
    ------
    DataError
        When the file is missing or cannot be decoded.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"image {path} cannot be read: {error.strerror}. Check the path."
        ) from error
    return fit(decode_image(raw, f"image {path}"))


def image_files(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises
    ------
    DataError
        When there is no such folder or it has no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"image folder {folder} does not exist. Run scripts/download.sh, or name "
            "the folder of your own images."
        )
    files = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: p.name
    )
    if not files:
        raise DataError(f"image folder {folder} has no image ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def load_folder(
    folder: str | Path,
    labels: dict[str, str] | None = None,
    *,
    name: str | None = None,
    limit: int | None = None,
) -> PlateImages:
    """Read a folder of crops, sorted by file name.

    Parameters
    ----------
    folder
        Folder with one image file per plate.
    labels
        Plate text by file name; None when the truth is not known.
    name
        Name of the set in results; the folder's by default.
    limit
        Read only the first `limit` images.

    Raises
    ------
    DataError
        Naming the file, when an image cannot be decoded or has no label.
    """
    files = image_files(folder)[:limit]
    if labels is not None:
        missing = [p.name for p in files if p.name not in labels]
        if missing:
            raise DataError(
                f"{len(missing)} images of {folder} have no label, the first is "
                f"{missing[0]}. Add them to the label file or move them away."
            )
    images = np.stack([read_image(p) for p in files])
    texts = None if labels is None else tuple(labels[p.name] for p in files)
    return PlateImages(name or Path(folder).name, images, tuple(p.name for p in files), texts)


def read_labels(path: str | Path) -> dict[str, str]:
    """Read a label file, JSON ``{file name: plate}`` as the vendor's tools have it.

    Raises
    ------
    DataError
        When it is missing, not JSON, or not such a mapping.
    """
    path = Path(path)
    try:
        labels = json.loads(path.read_text("utf8"))
    except OSError as error:
        raise DataError(f"label file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"label file {path} is not JSON in UTF-8: {error}.") from error
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise DataError(f"label file {path} is not a mapping {{file name: plate}}.")
    return labels


def subset(plates: PlateImages, count: int, seed: int) -> PlateImages:
    """A fixed random choice of `count` images in their original order.

    Raises
    ------
    ParameterError
        When there are fewer than `count` images.
    """
    if not 1 <= count <= len(plates):
        raise ParameterError(
            f"cannot take {count} images of {plates.name}, which has "
            f"{len(plates)}. Choose 1 to {len(plates)}."
        )
    chosen = np.random.default_rng(seed).permutation(len(plates))[:count]
    return plates.take(np.sort(chosen))
