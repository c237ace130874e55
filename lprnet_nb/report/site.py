"""The static site: `python -m lprnet_nb.report.site REPORT`, after which ``build/site`` opens.

README, docs and the report's executed notebooks become searchable pages by MkDocs (``mkdocs.yml``);
the report's own pages are copied beside them as they are.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from nbconvert import MarkdownExporter

from .. import children
from ..errors import DataError, LprnetError
from ..files import atomic_write
from ..places import repository
from .run import NOTEBOOKS

TEXTS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Relative links of a page: [text](target#part), not of pictures or other sites.
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def gather(root: Path, report: Path, pages: Path) -> Path:
    """Put the pages' Markdown together in an empty folder.

    Raises
    ------
    DataError
        When the report lacks its pages or an executed notebook.
    """
    index = report / "index.html"
    notebooks = [report / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
    for path in (index, *notebooks):
        if not path.is_file():
            raise DataError(
                f"{path} is not there. Make the report first: scripts/report.sh --profile full"
            )
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(root / "docs", pages / "docs")
    for name in TEXTS:
        atomic_write(pages / name, (root / name).read_bytes())
    for path in notebooks:
        _notebook(path, pages / "notebooks")
    atomic_write(
        pages / "report.md",
        f"# Report\n\n[Open the report “{report.name}”](report/index.html): its verdict, all "
        "numbers with what made them, a page for each BModel.\n",
    )
    for page in pages.rglob("*.md"):
        atomic_write(page, plain_links(page.read_text("utf8"), page.parent))
    return pages


def plain_links(text: str, folder: Path) -> str:
    """Links to files of the repository that are no pages as their text alone.

    Examples
    --------
    >>> plain_links("[code](../lprnet_nb/cli.py), [site](https://x.y)", Path("/nowhere"))
    'code, [site](https://x.y)'
    """

    def kept(found: re.Match[str]) -> str:
        there = (folder / found[2]).is_file() or found[2].startswith("report/")
        return found[0] if there else found[1]

    return LINK.sub(kept, text)


def _notebook(path: Path, folder: Path) -> None:
    text, resources = MarkdownExporter().from_filename(
        str(path), resources={"output_files_dir": path.stem}
    )
    atomic_write(folder / f"{path.stem}.md", text)
    for name, data in resources["outputs"].items():
        atomic_write(folder / name, data)


def build(root: Path, report: Path) -> Path:
    """Build the site below ``build/`` and return its first page.

    Raises
    ------
    DataError
        See `gather`.
    LprnetError
        When MkDocs finds a page, a link or an anchor that leads nowhere.
    """
    gather(root, report, root / "build" / "site-pages")
    done = children.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", root / "mkdocs.yml"],
        timeout=600,
    )
    if done.returncode:
        raise LprnetError(f"mkdocs: {done.stderr.strip() or done.stdout.strip()}")
    site = root / "build" / "site"
    shutil.copytree(report, site / "report", ignore=shutil.ignore_patterns("*.lock", "*.bmodel"))
    return site / "index.html"


if __name__ == "__main__":
    print(build(repository(), Path(sys.argv[1]).resolve()))
