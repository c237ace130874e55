"""Where things lie: the checkout, the cache, the data, the reports; and who names these places."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def repository() -> Path:
    """Root of the checkout that this package is installed from."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Folder of artifacts and tools: `LPRNET_CACHE`, else the user's cache folder."""
    return _named("LPRNET_CACHE") or Path(platformdirs.user_cache_dir("lprnet-nb"))


def data_dir() -> Path:
    """Folder of models and images: `LPRNET_DATA`, else `data/` of the checkout."""
    return _named("LPRNET_DATA") or repository() / "data"


def reports_dir() -> Path:
    """Folder of reports: `LPRNET_REPORTS`, else `reports/` of the checkout."""
    return _named("LPRNET_REPORTS") or repository() / "reports"


def _named(variable: str) -> Path | None:
    named = os.environ.get(variable)
    return Path(named).expanduser() if named else None


def place_variable(path: str | Path) -> str | None:
    """The variable that names another folder for what lies at `path`; None for a user's own."""
    for variable, folder in (
        ("LPRNET_CACHE", cache_dir()),
        ("LPRNET_DATA", data_dir()),
        ("LPRNET_REPORTS", reports_dir()),
    ):
        if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            return variable
    return None
