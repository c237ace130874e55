"""The weights trained here on generated plates: in the package, so that no network is needed."""

from __future__ import annotations

from importlib import resources

from ..cache import file_digest
from ..errors import DataError
from .weights import Weights, load_weights

FILE = "lprnet_generated.pth"


def load_own_weights() -> Weights:
    """The packaged weights, checked against the digest in their folder.

    Their source, data and accuracy by set are in the model card beside them.

    Raises
    ------
    DataError
        When the file is missing or altered.
    """
    folder = resources.files(__package__) / "own_weights"
    with resources.as_file(folder / FILE) as path:
        try:
            known = (folder / f"{FILE}.sha256").read_text("utf8").split()[0]
            found = file_digest(path)
        except OSError as error:
            raise DataError(
                f"the packaged weights cannot be read: {error}. Install the package again."
            ) from error
        if found != known:
            raise DataError(
                f"{path} is not the packaged file: its SHA-256 differs. Install the package again."
            )
        return load_weights(path, name="generated")
