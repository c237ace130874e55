"""The vendor's SDK of TPU-NNTC: where it is, and how its tools are run."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ... import children
from ...cache import digest
from ...errors import ToolchainError
from ...files import private_folder
from ...settings import settings, variable
from ..process import run_logged

SDK_VARIABLE = variable("nntc_sdk")
DOCKER_VARIABLE = variable("nntc_docker")

COMPILE_TIMEOUT = 900.0  # seconds
PROBE_TIMEOUT = 1800.0  # a docker image may have to be fetched first

_PROGRAMS = ("bmnetu", "calibration_use_pb")
_MODULES = ("bmnetp", "ufw")

# A sourced script sees the positional parameters of its caller, so they are put out of its way.
_SOURCE = (
    'lprnet_sdk=$1 lprnet_work=$2; shift 2; lprnet_tool=("$@"); set --; cd "$lprnet_sdk" && '
    '{ source scripts/envsetup.sh >&2; cd "$lprnet_work"; } && exec "${lprnet_tool[@]}"'
)
_PROBE = """
for tool in {programs}; do
  path=$(command -v "$tool") && sum=$(sha256sum < "$path") || sum=-
  echo "lprnet-nb $tool ${{sum%% *}}"
done
python3 -c 'import importlib.util as u, sys
for name in sys.argv[1:]: print("lprnet-nb", name, "+" if u.find_spec(name) else "-")' {modules} \
  || echo "lprnet-nb python3 -"
"""
_HELP = (
    f"Unpack the vendor's TPU-NNTC SDK and name its folder in {SDK_VARIABLE} (or `source "
    "scripts/envsetup.sh` in it first); on a system that it does not run on, also name the "
    f"vendor's docker image in {DOCKER_VARIABLE} (sophgo/tpuc_dev). Or use --toolchain mlir, "
    "which installs itself."
)


@dataclass(frozen=True)
class Nntc:
    """A TPU-NNTC installation.

    Parameters
    ----------
    sdk
        Folder of the unpacked SDK, or None where its tools are on the PATH.
    image
        Docker image that the tools run in, or None.
    programs
        SHA-256 of its programs by name: part of the key of all that it makes.
    """

    sdk: Path | None
    image: str | None
    programs: tuple[tuple[str, str], ...] = ()

    @property
    def version(self) -> str:
        """What is known of its version: the SDK folder's name, the image, the programs' digest."""
        sdk = self.sdk.name if self.sdk else Path(os.environ.get("REL_TOP", "on PATH")).name
        programs = digest(self.programs)[:12]
        return f"{sdk} {programs}" + (f" in {self.image}" if self.image else "")

    def command(self, command: Sequence[str], cwd: Path, container: str) -> list[str]:
        """The whole command line that runs a tool in `cwd`; `container` names its container."""
        if self.sdk is None:
            return list(command)
        if self.image is None:
            return ["bash", "-c", _SOURCE, "nntc", str(self.sdk), str(cwd), *command]
        if "," in f"{self.sdk}{cwd}":
            raise ToolchainError(
                f"docker cannot mount {self.sdk} or {cwd}: a comma in the path. "
                "Move the SDK, or name another cache folder in LPRNET_CACHE."
            )
        return [
            "docker",
            "run",
            "--rm",
            "--init",
            "--name",
            container,
            "--user",
            f"{os.getuid()}:{os.getgid()}",
            "--env",
            "HOME=/tmp",
            "--mount",
            f"type=bind,source={self.sdk},target=/workspace/tpu-nntc",
            "--mount",
            f"type=bind,source={cwd},target=/workspace/work",
            self.image,
            "bash",
            "-c",
            _SOURCE,
            "nntc",
            "/workspace/tpu-nntc",
            "/workspace/work",
            *command,
        ]

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        log: Path,
        what: str,
        timeout: float = COMPILE_TIMEOUT,
    ) -> None:
        """Run one tool in a folder; paths in its command are relative to that.

        Raises
        ------
        ToolchainError
            With the end of the log, when it fails or does not end.
        """
        container = f"lprnet-nntc-{secrets.token_hex(6)}"
        try:
            run_logged(
                self.command(command, cwd.resolve(), container),
                cwd=cwd,
                log=log,
                env=environment(),
                python=sys.executable,
                timeout=timeout,
                what=what,
            )
        except BaseException:
            if self.image:  # killing docker's client leaves the container running
                with contextlib.suppress(OSError):
                    children.run(["docker", "kill", container], timeout=60)
            raise


def environment() -> dict[str, str]:
    """Environment of the tools: ours without the workbook's own Python, which has no TPU-NNTC."""
    keep = {k: v for k, v in children.environment().items() if k != "VIRTUAL_ENV"}
    if sys.prefix != sys.base_prefix:
        own = Path(sys.prefix, "bin")
        keep["PATH"] = os.pathsep.join(
            part for part in keep.get("PATH", "").split(os.pathsep) if part and Path(part) != own
        )
    return keep


def nntc() -> Nntc:
    """The TPU-NNTC that the environment names.

    Raises
    ------
    ToolchainError
        When there is none, or it is not complete: what is missing and how to get it.
    """
    return nntc_with(_PROGRAMS, _MODULES)


def nntc_with(programs: tuple[str, ...], modules: tuple[str, ...]) -> Nntc:
    """The TPU-NNTC that the environment names, with these of its programs; as `nntc`."""
    sdk, image = settings().nntc_sdk, settings().nntc_docker
    folder = Path(sdk).expanduser().resolve() if sdk else None
    if folder and not (folder / "scripts" / "envsetup.sh").is_file():
        raise ToolchainError(
            f"{SDK_VARIABLE}={sdk} is not an unpacked TPU-NNTC SDK: it has no "
            f"scripts/envsetup.sh. {_HELP}"
        )
    if image and not folder:
        raise ToolchainError(
            f"{DOCKER_VARIABLE}={image} needs {SDK_VARIABLE} too: the image holds "
            f"the system that the SDK runs on, not the SDK. {_HELP}"
        )
    if image and not children.program("docker"):
        raise ToolchainError(
            f"{DOCKER_VARIABLE}={image} needs docker, which is not on the PATH. "
            "Install docker, or run where the SDK's own tools run."
        )
    there = _probe(
        Nntc(folder, image),
        programs,
        modules,
        environment().get("PATH", ""),
        os.environ.get("PYTHONPATH", ""),
    )
    missing = [name for name in (*programs, *modules) if there.get(name, "-") == "-"]
    if missing:
        raise ToolchainError(
            f"TPU-NNTC is not here: no {', '.join(missing)}"
            f"{f' in {image}' if image else ''}"
            f"{f' after sourcing {folder}/scripts/envsetup.sh' if folder else ''}"
            f". {_HELP}"
        )
    return Nntc(folder, image, tuple(sorted((name, there[name]) for name in programs)))


@lru_cache
def _probe(
    tools: Nntc, programs: tuple[str, ...], modules: tuple[str, ...], path: str, python_path: str
) -> dict[str, str]:
    """Digest of each program and "+" for each module that is there, "-" for what is not."""
    script = _PROBE.format(programs=" ".join(programs), modules=" ".join(modules))
    with tempfile.TemporaryDirectory(prefix="nntc-", dir=private_folder()) as folder:
        log = Path(folder) / "probe.log"
        tools.run(
            ["bash", "-c", script],
            cwd=Path(folder),
            log=log,
            what="looking for TPU-NNTC's tools",
            timeout=PROBE_TIMEOUT,
        )
        lines = [line.split() for line in log.read_text("utf8", "replace").splitlines()]
    return {words[1]: words[2] for words in lines if len(words) == 3 and words[0] == "lprnet-nb"}
