"""Plate crops as every stage takes them, and the one preprocessing."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from ..cache import array_digest, digest
from ..errors import DataError, ParameterError
from ..files import LARGEST_IMAGE
from ..inputs import find_path, missing, note, read_bytes

HEIGHT, WIDTH = 24, 94  # pixels of the published plates and of the generated ones
ORDERS = ("bgr", "rgb", "gray")  # of a network's input planes
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
)
# Height in pixels from which a picture that is less wide, in its heights, is no crop of a plate.
_SCENES = ((40, 1.2), (200, 1.9), (480, 2.5))
_LARGEST_SIDE = 4096  # pixels of a network's input
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".rar", ".7z", ".xz", ".bz2")
# Names that systems and programs leave beside pictures, and show to nobody.
_HIDDEN = re.compile(r"\..*|__MACOSX|@eaDir|Thumbs\.db|desktop\.ini", re.IGNORECASE)


@dataclass(frozen=True)
class InputFormat:
    """What a network takes of a picture: ``(pixels - mean) * scale``, planes first.

    Parameters
    ----------
    height, width
        Pixels.
    mean, scale
        One value a plane, in the order of the planes; pixels are 0 to 255.
    order
        One of `ORDERS`; gray as `cv2.COLOR_BGR2GRAY` makes it.

    Raises
    ------
    DataError
        For an impossible size, an unknown order, or values that do not fit the order.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    order: str = "bgr"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise DataError(f"order {self.order!r} is not known. Choose {', '.join(ORDERS)}.")
        if not (1 <= self.height <= _LARGEST_SIDE and 1 <= self.width <= _LARGEST_SIDE):
            raise DataError(
                f"input {self.height}x{self.width} is impossible. Height and width are pixels, 1 "
                f"to {_LARGEST_SIDE}."
            )
        planes = 1 if self.order == "gray" else 3
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) != planes or not np.isfinite(values).all():
                raise DataError(
                    f"{name} {list(values)} does not fit order {self.order!r}: give {planes} "
                    "finite numbers, one a plane."
                )
        if 0 in self.scale:
            raise DataError(f"scale {list(self.scale)}: 0 would erase the picture.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(planes, height, width)``."""
        return len(self.mean), self.height, self.width

    def planes(self, images: np.ndarray) -> np.ndarray:
        """Planes of uint8 BGR ``[N, height, width, 3]``: uint8 ``[N, planes, height, width]``.

        Raises
        ------
        ParameterError
            For images of another size.
        """
        if images.ndim != 4 or images.shape[1:] != (self.height, self.width, 3):
            raise ParameterError(
                f"images are {list(images.shape)}, expected [N, {self.height}, {self.width}, 3]: "
                "fit() brings them to the network's size."
            )
        if self.order == "rgb":
            images = images[..., ::-1]
        elif self.order == "gray":
            gray = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
            images = np.stack(gray)[..., None] if gray else images[..., :1]
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def check_images(self, images: np.ndarray, what: str) -> None:
        """Raise a ParameterError unless `images` are some of this size, uint8 BGR."""
        size = (self.height, self.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size or not len(images):
            raise ParameterError(
                f"{what} are {images.dtype} {list(images.shape)}, "
                f"expected uint8 [N, {self.height}, {self.width}, 3] with N > 0."
            )

    def pixels(self, inputs: np.ndarray) -> np.ndarray:
        """The planes again, as whole float32 numbers, that a network's inputs were made of."""
        return np.rint(inputs / _each(self.scale) + _each(self.mean)).astype(np.float32)


def _each(values: tuple[float, ...]) -> np.ndarray:
    """Values of the planes, to be broadcast over ``[N, planes, height, width]``."""
    return np.array(values, np.float32)[:, None, None]


# sirius-ai/LPRNet_Pytorch, data/load_data.py: (x - 127.5) / 128; arXiv 1806.10447, table 2.
PUBLISHED_INPUT = InputFormat(HEIGHT, WIDTH, (127.5,) * 3, (0.0078125,) * 3)


@dataclass(frozen=True)
class PlateImages:
    """A set of plate crops.

    Parameters
    ----------
    name
        What the set is called in results.
    images
        uint8 BGR ``[N, height, width, 3]``.
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
        shape, count = self.images.shape, len(self.names)
        fits = len(shape) == 4 and shape[0] == count and shape[3] == 3 and min(shape[1:]) > 0
        if not fits or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} "
                f"{list(shape)}, expected uint8 [{count}, height, width, 3] in BGR."
            )
        if self.labels is not None and len(self.labels) != len(self.names):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self.names)} images.")
        check_utf8(self.name, self.names)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over pixels, file names and labels."""
        return digest(
            {"pixels": array_digest(self.images), "names": self.names, "labels": self.labels}
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of each, pixels."""
        return self.images.shape[1], self.images.shape[2]

    def fitted(self, size: tuple[int, int]) -> PlateImages:
        """These at another size (height, width), resized as `fit` does it."""
        if size == self.size:
            return self
        images = np.empty((len(self), *size, 3), np.uint8)
        for place, image in enumerate(self.images):
            images[place] = fit(image, size)
        return replace(self, images=images)

    @property
    def known_labels(self) -> tuple[str, ...]:
        """The labels, for what is nothing without them; `DataError` where there are none."""
        if self.labels is None:
            raise DataError(f"{self.name}: no labels, which accuracy is counted against.")
        return self.labels

    def read(self) -> PlateImages:
        """These, as `folder.PlateFiles.read` reads its own."""
        return self

    def take(self, indices: Sequence[int] | np.ndarray | slice) -> PlateImages:
        """The images at `indices` (integers or a slice), in that order."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        chosen = [int(i) for i in indices]
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return PlateImages(
            self.name, self.images[chosen], tuple(self.names[i] for i in chosen), labels
        )


def check_utf8(place: str, names: Iterable[str]) -> None:
    """Raise a DataError unless all file names are UTF-8, so that results can hold them."""
    for name in names:
        try:
            name.encode("utf8")
        except UnicodeEncodeError:
            if _is_utf8(name):
                raise DataError(
                    f"{place}: file name {name!r} is in UTF-8, which this locale "
                    f"({sys.getfilesystemencoding()}) cannot read. Set LC_ALL=C.UTF-8."
                ) from None
            raise DataError(
                f"{place}: file name {name!r} is not UTF-8 and cannot be written into results. "
                "Rename it; `convmv -f gb18030 -t utf8 -r --notest FOLDER` renames what an "
                "archive from a Chinese Windows left."
            ) from None


def _is_utf8(name: str) -> bool:
    """Whether a name that was read in another encoding is UTF-8 on the disk."""
    with contextlib.suppress(UnicodeError):
        return bool(os.fsencode(name).decode("utf8"))
    return False


def preprocess(images: np.ndarray, taken: InputFormat = PUBLISHED_INPUT) -> np.ndarray:
    """Turn crops into a network's input: ``(pixels - mean) * scale``, NCHW.

    Parameters
    ----------
    images
        uint8 BGR ``[N, height, width, 3]``.
    taken
        What the network takes; by default ``(x - 127.5) * 0.0078125`` of 24x94 pixels, BGR kept.

    Returns
    -------
    np.ndarray
        float32 ``[N, planes, height, width]``, contiguous: torch's 3-D pool refuses a transposed
        view.

    Raises
    ------
    ParameterError
        For images of another size.

    Examples
    --------
    >>> preprocess(np.full((1, 24, 94, 3), 255, np.uint8))[0, 0, 0, 0].item()
    0.99609375
    """
    return (taken.planes(images).astype(np.float32) - _each(taken.mean)) * _each(taken.scale)


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
            "replace it with a readable JPEG, PNG, BMP, WebP or TIFF."
        )
    return image


def fit(image: np.ndarray, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Plain resize to `size` (height, width), no letterbox: weights are trained so; uint8 BGR."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1])


def read_image(path: str | Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Read one crop as uint8 BGR ``[*size, 3]``, whatever characters its name has.

    Raises
    ------
    DataError
        When the file is missing, cannot be decoded, or is a whole scene by its shape.
    """
    image = decode_image(read_bytes(path, "image", LARGEST_IMAGE), f"image {path}")
    height, width = image.shape[:2]
    if is_scene(height, width):
        raise DataError(
            f"image {path} is {width}x{height} pixels, the shape of a whole scene and not of a "
            "plate. Cut the plate out of it first; recognizers read crops."
        )
    return fit(image, size)


def is_scene(height: int, width: int) -> bool:
    """Whether a picture of so many pixels cannot be the crop of a plate.

    A plate with one row is 3 to 5 times as wide as high, with two rows 1.4 to 2.2 times; cameras
    take 1.3 to 2.4 times, or upright pictures. The higher the picture, the less it may be a crop.

    Examples
    --------
    >>> is_scene(1160, 720), is_scene(1080, 1920), is_scene(24, 94), is_scene(110, 220)
    (True, True, False, False)
    """
    return any(height >= least and width < ratio * height for least, ratio in _SCENES)


@dataclass(frozen=True)
class Listing:
    """What lies below a folder, by paths relative to it with ``/``, nothing opened.

    Parameters
    ----------
    folder
        Absolute.
    images
        Pictures by their suffix: a folder's by name, before those of its subfolders.
    others
        Files that are no pictures.
    hidden
        How many hidden files and folders, among them what macOS and Windows leave.
    links
        How many links to folders; they are not followed.
    """

    folder: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    hidden: int = 0
    links: int = 0

    def note_left_out(self, used: Iterable[str] = ()) -> None:
        """Say what is no picture, once and with a count; `used` are others that are of use."""
        unused = set(self.others) - set(used)
        kinds = Counter(Path(name).suffix.lower() or "without suffix" for name in unused)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        left = [f"{len(unused)} files that are no pictures ({counts})"] * bool(unused)
        left += [f"{self.hidden} hidden"] * bool(self.hidden)
        left += [f"{self.links} links to folders"] * bool(self.links)
        if left:
            note(
                f"{self.folder}: {' and '.join(left)} left out; {len(self.images)} pictures remain."
            )


def list_images(folder: str | Path) -> Listing:
    """List the pictures below a folder, subfolders included.

    Raises
    ------
    DataError
        When there is no such folder, it cannot be read, or it has no picture.
    """
    folder = image_folder(folder)
    images: list[str] = []
    others: list[str] = []
    counts = Counter[str]()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        folders, files = _entries(folder, below, others, counts)
        images += [below + name for name in sorted(files)]
        waiting += [f"{below}{name}/" for name in sorted(folders, reverse=True)]
    if not images:
        packed = [name for name in others if name.lower().endswith(_ARCHIVES)]
        raise DataError(
            f"image folder {folder} has no image ({', '.join(IMAGE_SUFFIXES)})"
            + (
                f", but {packed[0]}. Unpack it and name the folder."
                if packed
                else ". Name the folder of your plates."
            )
        )
    check_utf8(str(folder), images)
    return Listing(folder, tuple(images), tuple(others), counts["hidden"], counts["links"])


def image_folder(folder: str | Path) -> Path:
    """Absolute path of a folder of images, see `inputs.find_path`.

    Raises
    ------
    DataError
        When there is none, or it is a file.
    """
    path = find_path(folder)
    if not path.exists():
        raise DataError(
            f"image folder {missing(folder)}. Run scripts/download.sh, or name the "
            "folder of your own images."
        )
    if not path.is_dir():
        raise DataError(
            f"{path} is "
            + (
                "an archive. Unpack it and name the folder."
                if path.name.lower().endswith(_ARCHIVES)
                else "a file, not a folder of images. Name the folder that it lies in."
            )
        )
    return path


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and programs leave beside pictures."""
    return bool(_HIDDEN.fullmatch(name))


def _entries(
    root: Path, below: str, others: list[str], counts: Counter[str]
) -> tuple[list[str], list[str]]:
    """Names of the subfolders and of the pictures of one folder."""
    folders, files = [], []
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    counts["hidden"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_dir():
                    counts["links"] += 1
                elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                    files.append(entry.name)
                else:
                    others.append(below + entry.name)
    except OSError as error:
        raise DataError(
            f"image folder {root / below} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    return folders, files


def image_files(folder: str | Path) -> list[Path]:
    """Image files below a folder, in the order of `list_images`; what is left out is noted.

    Raises
    ------
    DataError
        When there is no such folder or it has no image.
    """
    listing = list_images(folder)
    listing.note_left_out()
    return [listing.folder / name for name in listing.images]


def choose(total: int, count: int, seed: int) -> np.ndarray:
    """A fixed random choice of `count` of `total`: int64 indices, ascending.

    Raises
    ------
    ParameterError
        When there are fewer than `count`.
    """
    if not 1 <= count <= total:
        raise ParameterError(f"cannot take {count} of {total} images. Choose 1 to {total}.")
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def subset(plates: PlateImages, count: int, seed: int) -> PlateImages:
    """The images that `choose` chooses, in their original order."""
    return plates.take(choose(len(plates), count, seed))
