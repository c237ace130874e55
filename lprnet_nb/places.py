"""Where things lie: the checkout, the cache, the data, the reports; and who names these places."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from .settings import settings, variable


def repository() -> Path:
    """Root of the checkout that this package is installed from."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Folder of artifacts and tools: `LPRNET_CACHE`, else the user's cache folder."""
    return _named(settings().cache) or Path(platformdirs.user_cache_dir("lprnet-nb"))


def data_dir() -> Path:
    """Folder of models and images: `LPRNET_DATA`, else `data/` of the checkout."""
    return _named(settings().data) or repository() / "data"


def reports_dir() -> Path:
    """Folder of reports: `LPRNET_REPORTS`, else `reports/` of the checkout."""
    return _named(settings().reports) or repository() / "reports"


def _named(named: str | None) -> Path | None:
    return Path(named).expanduser() if named else None


def place_variable(path: str | Path) -> str | None:
    """The variable that names another folder for what lies at `path`; None for a user's own."""
    for name, folder in (("cache", cache_dir()), ("data", data_dir()), ("reports", reports_dir())):
        if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            return variable(name)
    return None
