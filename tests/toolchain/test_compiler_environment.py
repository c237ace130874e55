from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lprnet_nb.errors import ToolchainError
from lprnet_nb.toolchain import environment


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine on which nothing can be found."""
    for name in (
        "PYENV_ROOT",
        "CONDA_PREFIX",
        "CONDA_EXE",
        "MAMBA_ROOT_PREFIX",
        environment.PYTHON_VARIABLE,
        environment.ENVIRONMENT_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def fake_python(path, code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_python_310_is_found_where_people_have_it(bare):
    home = bare / "home"
    places = [
        fake_python(bare / "bin/python3.10", code=1),  # a shim without a version behind it
        fake_python(home / ".pyenv/versions/3.10.2/bin/python3.10", code=1),
        fake_python(home / "miniconda3/envs/py310/bin/python3.10", code=1),
        fake_python(home / ".local/share/uv/python/cpython-3.10.9-linux/bin/python3.10"),
    ]
    assert list(environment.python310_candidates()) == places
    assert environment.find_python310() == places[-1]


def test_the_users_choice_is_the_only_one_tried(bare, monkeypatch):
    fake_python(bare / "bin/python3.10")
    mine = fake_python(bare / "mine/python", code=1)
    monkeypatch.setenv(environment.PYTHON_VARIABLE, mine)
    with pytest.raises(ToolchainError, match="tried and unfit: .*mine/python"):
        environment.find_python310()


def test_without_python_310_the_error_says_how_to_get_one(bare):
    with pytest.raises(ToolchainError, match="(?s)no Python 3.10.*pyenv install.*LPRNET_TPU_MLIR"):
        environment.compiler()
    assert not environment.default_prefix().exists()


def test_a_named_environment_must_hold_tpu_mlir(bare, monkeypatch):
    monkeypatch.setenv(environment.ENVIRONMENT_VARIABLE, str(bare / "nowhere"))
    with pytest.raises(ToolchainError, match="is not a Python environment with TPU-MLIR"):
        environment.compiler()


def test_the_bundled_c_library_is_moved_where_no_loader_looks(tmp_path):
    third_party = tmp_path / "lib" / "third_party"
    third_party.mkdir(parents=True)
    for name in (*environment.BUNDLED_SYSTEM_LIBRARIES, "libopenblas.so.0"):
        (third_party / name).write_text(name)
    environment._mend(tmp_path)
    environment._mend(tmp_path)
    assert sorted(p.name for p in third_party.glob("*.so*")) == ["libopenblas.so.0"]
    assert len(list((third_party / "aside").iterdir())) == 7


def test_the_installed_compiler_is_what_it_should_be(compiler):
    assert compiler.version == environment.VERSION
    assert (compiler.library_folder / "libcmodel_bm1684x.so").exists()
    said = subprocess.run(
        [compiler.prefix / "bin" / "model_deploy.py", "--version"],
        text=True,
        capture_output=True,
        env=compiler.environment(),
        timeout=120,
    )
    assert environment.VERSION in said.stdout + said.stderr
    assert compiler.environment()["PATH"].split(os.pathsep)[0] == str(compiler.prefix / "bin")


def test_graphviz_is_used_where_it_is_and_not_missed_elsewhere(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = shutil.which("dot", path=compiler.environment()["PATH"])
    assert Path(found).parent == environment.STAND_INS
    assert subprocess.run([found, "-Kdot", "-Tsvg", "-O", "search"], timeout=10).returncode == 0
    own = tmp_path / "dot"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert shutil.which("dot", path=compiler.environment()["PATH"]) == str(own)
