"""The errors that users meet.

Every message says what is wrong, where, and what to do. The command line prints the message alone;
anything that is not an `LprnetError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class LprnetError(Exception):
    """Base of all errors that this package raises on purpose."""


class DataError(LprnetError, ValueError):
    """Images, labels or weights that are missing, altered or unreadable."""


class UnlabelledError(DataError):
    """A folder with no list of labels, whose file names are not plates, where these are needed."""


class ParameterError(LprnetError, ValueError):
    """A parameter that is unknown or has an impossible value."""


class ToolchainError(LprnetError, RuntimeError):
    """A compiler that is missing or failed."""


class EngineError(LprnetError, RuntimeError):
    """A BModel that cannot be loaded or run."""
