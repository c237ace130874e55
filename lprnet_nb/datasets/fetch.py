"""The published weights and test images: fetched once, checked on every use.

They come from sirius-ai/LPRNet_Pytorch at a pinned commit (Apache License 2.0), or from a folder of
the same layout named by `LPRNET_MIRROR`. The registry of SHA-256 beside this module decides what is
accepted; a file that differs is refused by name and never used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pooch
import requests

from ..cache import file_digest
from ..errors import DataError
from ..files import atomic_write, private_folder
from ..places import data_dir
from ..settings import settings
from .alphabet import PUBLISHED
from .images import PlateImages, decode_image, fit

COMMIT = "7c976664b3f3879efabeaff59c7a117e49d5f29e"
UPSTREAM = f"https://github.com/sirius-ai/LPRNet_Pytorch/archive/{COMMIT}.zip"
WEIGHTS = "Final_LPRNet_model.pth"
PUBLISHED_NAME = "published-1000"

HELP = (
    "Run scripts/download.sh on a machine that reaches github.com, or name a folder that holds "
    "weights/ and test/ in LPRNET_MIRROR."
)


def registry() -> dict[str, str]:
    """SHA-256 by name: the weights' file name, and ``test/<plate>.jpg`` for the images."""
    text = resources.files(__package__).joinpath("published_registry.txt").read_text("utf8")
    return dict(line.rsplit(" ", 1) for line in text.splitlines())


def weights_path() -> Path:
    """Where the published weights belong."""
    return data_dir() / "models" / "torch" / WEIGHTS


def images_folder() -> Path:
    """Where the published test images belong."""
    return data_dir() / "images" / "test"


def labels_path() -> Path:
    """Where the label file of the published test images belongs."""
    return data_dir() / "images" / "test_label.json"


def _target(name: str) -> Path:
    return weights_path() if name == WEIGHTS else images_folder() / Path(name).name


def check_file(path: Path, known: str) -> bytes:
    """Bytes of a file whose SHA-256 is `known`.

    Raises
    ------
    DataError
        When it is missing or differs; the file itself is left as it is.
    """
    try:
        if file_digest(path) == known:
            return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {HELP}") from error
    raise DataError(
        f"{path} is not the published file: its SHA-256 differs from the registry "
        "(truncated or altered). Remove it and run scripts/download.sh."
    )


def is_published_data_here() -> bool:
    """Whether every file of the registry is in place with the right digest."""
    try:
        return all(file_digest(_target(name)) == known for name, known in registry().items())
    except OSError:
        return False


def fetch_published(
    *, mirror: str | Path | None = None, url: str = UPSTREAM, progress: bool = True
) -> Path:
    """Put weights, images and label file in place; what is there and right is not fetched again.

    Parameters
    ----------
    mirror
        Folder with ``weights/`` and ``test/``; `LPRNET_MIRROR` by default, else upstream.
    url
        Archive of the upstream repository.
    progress
        Show a progress bar while downloading.

    Returns
    -------
    Path
        The data folder.

    Raises
    ------
    DataError
        When a file is missing from the source, differs from the registry, or the source cannot be
        reached. Files that were right before are kept.
    """
    mirror = mirror or settings().mirror
    wanted = {
        name: known
        for name, known in registry().items()
        if not (_target(name).exists() and file_digest(_target(name)) == known)
    }
    if wanted:
        if mirror:
            _copy_from_mirror(Path(mirror), wanted)
        else:
            _download(url, wanted, progress)
    labels = {Path(name).name: Path(name).stem for name in sorted(registry()) if name != WEIGHTS}
    text = json.dumps(labels, ensure_ascii=False, indent=0)
    if not labels_path().exists() or labels_path().read_text("utf8") != text:
        atomic_write(labels_path(), text)
    return data_dir()


def _copy_from_mirror(mirror: Path, wanted: dict[str, str]) -> None:
    if not mirror.is_dir():
        raise DataError(
            f"mirror folder {mirror} (LPRNET_MIRROR) does not exist. Name a folder "
            "that holds weights/ and test/, or unset it to fetch from upstream."
        )
    for name, known in wanted.items():
        source = mirror / ("weights" if name == WEIGHTS else "") / name
        if not source.exists() and name != WEIGHTS:
            source = mirror / "data" / name  # a checkout of upstream is a mirror too
        atomic_write(_target(name), check_file(source, known))


def _download(url: str, wanted: dict[str, str], progress: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="download-", dir=private_folder()))
    try:
        archive = pooch.retrieve(
            url,
            known_hash=None,
            path=folder,
            fname="upstream.zip",
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=60),
        )
        with zipfile.ZipFile(archive) as members:
            # Only names of the registry are looked up, so nothing lands outside its place.
            by_tail = {name.split("/", 1)[-1]: name for name in members.namelist()}
            for name, known in wanted.items():
                tail = f"weights/{name}" if name == WEIGHTS else f"data/{name}"
                if tail not in by_tail:
                    raise DataError(f"{url} has no {tail}. {HELP}")
                part = folder / "part"
                part.write_bytes(members.read(by_tail[tail]))
                atomic_write(_target(name), check_file(part, known))
    except (requests.RequestException, zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"the published data could not be fetched from {url}: {error}. {HELP}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_published(limit: int | None = None) -> PlateImages:
    """The published test images, sorted by name, each checked against the registry.

    Parameters
    ----------
    limit
        Only the first `limit` of them.

    Raises
    ------
    DataError
        Naming the file that is missing or altered.
    """
    known = registry()
    names = sorted(Path(name).name for name in known if name != WEIGHTS)[:limit]
    images = np.stack(
        [
            fit(decode_image(check_file(images_folder() / name, known[f"test/{name}"]), name))
            for name in names
        ]
    )
    labels = tuple(Path(name).stem for name in names)
    for label in labels:
        PUBLISHED.encode(label)
    return PlateImages(PUBLISHED_NAME, images, tuple(names), labels)
