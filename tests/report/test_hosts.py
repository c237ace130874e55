"""A report made by hosts of a cluster has the bytes of one that this machine made by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lprnet_nb.proof.cluster import Cluster
from lprnet_nb.toolchain.environment import ENVIRONMENT_VARIABLE
from lprnet_nb.work.scheduler import SCHEDULER_VARIABLE

HOSTS = 3


def report(name: str, environment: dict[str, str], *options: str) -> None:
    """The quick report, as a user starts it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lprnet-nb"), "report", "--name", name, *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_quick_report_of_three_hosts(compiler, tmp_path):
    """``scripts/test.sh -m slow tests/report/test_hosts.py`` (half an hour on two cores).

    Three workers started by hand beside a scheduler, and the process that asks: four caches, all
    empty, none of them shared. The other report is made from the cache of every day.
    """
    plain = {
        **os.environ,
        "LPRNET_REPORTS": str(tmp_path / "reports"),
        ENVIRONMENT_VARIABLE: str(compiler.prefix),
    }
    plain.pop(SCHEDULER_VARIABLE, None)
    caches = [tmp_path / f"host{number}" / "cache" for number in range(HOSTS)]
    made = Cluster(plain, caches)
    try:
        made.wait()
        report(
            "hosts",
            plain | {"LPRNET_CACHE": str(tmp_path / "asks" / "cache")},
            "--scheduler",
            made.address,
        )
    finally:
        made.close()
    report("alone", plain)
    hosts, alone = (
        (tmp_path / "reports" / name / "metrics.json").read_bytes() for name in ("hosts", "alone")
    )
    assert hosts == alone and json.loads(hosts)["rows"]
    for cache in caches:  # each had a share of the inference, and all of the compiling was theirs
        assert list((cache / "artifacts" / "logits").glob("[0-9a-f]*"))
    assert any((cache / "artifacts" / "bmodel").exists() for cache in caches)
