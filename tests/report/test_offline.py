"""The whole main job where no packet can leave: own plates, own weights, and the report says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from lprnet_nb.places import repository

# Loopback, and nothing else, in a network namespace of its own; then the command.
ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket() as s:
    request = struct.pack("16sh", b"lo", 0)
    flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, request))[1]  # SIOCGIFFLAGS
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP
with open("/proc/net/route") as routes:
    assert len(routes.readlines()) == 1, "a route leads out"
os.execvp(sys.argv[1], sys.argv[1:])
"""


def unshare() -> list[str]:
    """The command that gives a process a network of its own; skips where that is not permitted."""
    for options in (["-n"], ["-r", "-n"]):
        command = ["unshare", *options]
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("no network namespace can be made here: unshare -n is missing or not permitted")


@pytest.mark.slow
def test_the_report_needs_no_network(compiler, tmp_path):
    """Minutes: `scripts/test.sh -m slow tests/report/test_offline.py`.

    707 s on two cores at load 10, with every BModel to compile. Only packages are warm (the
    workbook's environment and the compiler); the published data is nowhere to be found.
    """
    environment = {k: v for k, v in os.environ.items() if k != "LPRNET_MIRROR"} | {
        "LPRNET_DATA": str(tmp_path / "data"),
        "LPRNET_REPORTS": str(tmp_path / "reports"),
    }
    started = time.time()
    done = subprocess.run(
        [*unshare(), sys.executable, "-c", ALONE, str(repository() / "scripts" / "report.sh")],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{time.time() - started:.0f} s")
    report = tmp_path / "reports" / "quick"
    metrics = json.loads((report / "metrics.json").read_text("utf8"))
    assert metrics["dataset"]["name"] == "generated-1000-seed0"
    assert metrics["data"]["source"] == "generated" and metrics["data"]["weights"] == "generated"
    rows = metrics["rows"]
    assert {row["chip"] for row in rows} == {None, "BM1684X", "BM1684"}
    floats = [row for row in rows if row["chip"] is None and row["decoder"] == "greedy"]
    assert floats[0]["exact_match"] >= 0.955  # 0.972 on 4,960 such plates, less 3 standard errors
    assert all(
        row["agreement_with_float"] == 1
        for row in rows
        if row["precision"] == "fp32" and row["chip"]
    )
    page = (report / "index.html").read_text("utf8")
    head = page[page.index("<main") : page.index("<table")]
    assert "Generated plates, not photographs" in head and "weights of our own" in head
