"""A kit over ssh: a real sshd on loopback with a key of its own, its user's home elsewhere."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lprnet_nb import cli
from lprnet_nb.errors import DataError, EngineError, ParameterError
from lprnet_nb.measure.box import read_results
from lprnet_nb.proof import ssh
from lprnet_nb.proof.kit import kit_digest

QUICK = ("--only", "int8_1b", "--warm-up", "0", "--repetitions", "2")


@pytest.fixture
def server(tmp_path):
    """An sshd; gives its process, the ssh command that reaches it, and the home that it shows."""
    daemon = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if daemon is None or shutil.which("ssh") is None:
        pytest.skip("no sshd is here (Debian: apt-get install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # it insists on an empty folder of root's
    home = tmp_path / "home"
    home.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PidFile none\nPasswordAuthentication no\n"
        f'ForceCommand cd {home} && exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    command = (
        f"ssh -F /dev/null -p {port} -i {tmp_path}/user -o IdentitiesOnly=yes -o BatchMode=yes "
        f"-o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=accept-new"
    )
    with subprocess.Popen(
        [daemon, "-D", "-e", "-f", tmp_path / "config"], stderr=open(tmp_path / "sshd.log", "wb")
    ) as process:
        try:
            _wait_for(port)
            yield process, command, home
        finally:
            process.terminate()


def _wait_for(port):
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.skip("sshd does not start here")


def _cut_connections(daemon):
    """Kill the sshd processes of the connections that are open."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == daemon.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)


@pytest.fixture
def box(server, box_python, box_environment, monkeypatch):
    """Options of a run on the loopback box."""
    monkeypatch.setattr(ssh, "_WAIT", 0.1)
    variables = [f"{name}={value}" for name, value in box_environment.items() if name != "PATH"]
    return {
        "ssh": server[1],
        "python": shlex.join(["env", *variables, str(box_python)]),
        "options": QUICK,
    }


HOST = f"{getpass.getuser()}@127.0.0.1"


def test_copies_runs_and_fetches_through_a_cut_connection(kit, server, box, tmp_path):
    daemon, _, home = server
    lines, cut = [], []

    def report(line):
        lines.append(line)
        if line.startswith("2/5 ok") and not cut:
            cut.append(line)
            _cut_connections(daemon)

    output = tmp_path / "fetched.json"
    assert ssh.run_over_ssh(HOST, kit, output, report=report, **box) == output
    results = read_results(output)
    assert results.kit == kit_digest(kit) and len(results.checks) == 4
    assert all(check.passed for check in results.checks)
    assert results.models[0].programs["plates"].different == {}
    said = "\n".join(lines)
    place = home / f"lprnet-kit-{kit_digest(kit)[:16]}"
    assert f"MB, to {HOST}:{place.name}" in said and "is not reached" in said
    assert " of 5 jobs were finished before; going on" in said
    assert lines.count("1/5 ok   describes int8_1b: graph lprnet, 1 stages") == 1
    made = {path.name for path in kit.iterdir()} - {"files.json", "inputs.json"}
    there = {path.name for path in place.iterdir()}
    assert there == made | {"results.json", "results.part"}
    # What is there is not sent again, what was damaged there is.
    model = place / "models" / "int8_1b.bmodel"
    model.write_bytes(b"damaged")
    lines.clear()
    ssh.run_over_ssh(HOST, kit, output, report=lines.append, **box | {"options": ["--help"]})
    assert lines[0].startswith("copying 1 of ")
    assert model.read_bytes() == (kit / "models" / "int8_1b.bmodel").read_bytes()
    lines.clear()
    wrong = {"options": ["--only", "int8_9b"]}
    with pytest.raises(EngineError, match="ended with status 2: run.py: the kit has no model int8"):
        ssh.run_over_ssh(HOST, kit, output, report=lines.append, **box | wrong)
    assert lines[0] == f"{HOST}:{place.name} has the kit"


def test_results_of_another_kit_are_refused(kit, server, box, tmp_path):
    place = server[2] / f"lprnet-kit-{kit_digest(kit)[:16]}"
    place.mkdir()
    (place / "results.json").write_text("{}")
    with pytest.raises(DataError, match=r"is no results file: format: Field required"):
        ssh.run_over_ssh(HOST, kit, tmp_path / "r.json", report=print, **box | {"options": ["-h"]})


def test_a_box_that_is_not_reached_is_said_so(kit, server, box, tmp_path, monkeypatch):
    server[0].terminate()
    server[0].wait()
    monkeypatch.setattr(ssh, "TRIES", 2)
    lines = []
    with pytest.raises(EngineError, match="was not reached in 2 tries: .*Connection refused"):
        ssh.run_over_ssh(HOST, kit, report=lines.append, **box)
    assert len(lines) == 1 and "again in 0.1 s" in lines[0]
    with pytest.raises(EngineError, match="no-such-ssh is not installed"):
        ssh.run_over_ssh(HOST, kit, ssh="no-such-ssh", report=print)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch x", "a b"])
def test_what_ssh_would_take_for_an_option_is_no_host(kit, host):
    with pytest.raises(ParameterError, match="is no host"):
        ssh.run_over_ssh(host, kit, report=print)


def test_the_command_line_names_the_box_and_the_kit(kit, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ssh, "run_over_ssh", lambda *given, **more: seen.append((given, more)) or "results.json"
    )
    given = ["kit", str(kit), "--run", "linaro@box", "--ssh", "ssh -p 22"]
    done = CliRunner().invoke(cli.app, [*given, "--option=--repetitions=9"])
    assert done.output == "results.json\n"
    [(arguments, options)] = seen
    assert arguments == ("linaro@box", kit, None)
    assert options["ssh"] == "ssh -p 22" and options["options"] == ["--repetitions=9"]
