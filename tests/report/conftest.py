"""What the report's tests share: Chromium, and checkers from npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import chromium
import platformdirs
import pytest
from filelock import FileLock

# Pinned here: a lock file of npm would be full of addresses.
NPM_PACKAGES = ("axe-core@4.14.1", "html-validate@10.17.0")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    """Headless Chromium; skips where there is none."""
    program = chromium.find()
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or put one on PATH")
    with chromium.Page(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="session")
def npm() -> Path:
    """``node_modules`` with axe-core and html-validate, installed once into the user's cache."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm to install axe-core and html-validate with")
    folder = Path(platformdirs.user_cache_dir("lprnet-nb")) / "npm" / "_".join(NPM_PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            made = subprocess.run(
                [
                    "npm",
                    "install",
                    "--silent",
                    "--no-audit",
                    "--no-fund",
                    "--no-save",
                    "--ignore-scripts",
                    "--prefix",
                    folder,
                    *NPM_PACKAGES,
                ],
                capture_output=True,
                text=True,
                timeout=300,
                cwd=folder,
                env={**os.environ, "npm_config_update_notifier": "false"},
            )
            if made.returncode:
                pytest.skip(
                    f"npm could not install {', '.join(NPM_PACKAGES)}: "
                    f"{made.stderr.strip().splitlines()[-1:]}"
                )
            (folder / "done").touch()
    return folder / "node_modules"
