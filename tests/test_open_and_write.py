from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from lprnet_nb import cache, files
from lprnet_nb.cache import file_digest
from lprnet_nb.errors import DataError
from lprnet_nb.files import atomic_write, open_input, read_bytes, read_picture


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield os.umask
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_gets_what_the_umask_leaves_and_an_old_one_keeps_its_mode(tmp_path, umask):
    assert mode(atomic_write(tmp_path / "new", "x")) == 0o600
    umask(0o002)
    assert mode(atomic_write(tmp_path / "other", "x")) == 0o664
    (tmp_path / "other").chmod(0o440)
    assert mode(atomic_write(tmp_path / "other", "y")) == 0o440
    assert (tmp_path / "other").read_text() == "y"


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    for text in ("first", "second"):  # at first it leads to nothing yet
        atomic_write(link, text)
        assert link.is_symlink() and (tmp_path / "there" / "file").read_text() == text
    assert os.listdir(tmp_path / "there") == ["file"]


def test_a_fifo_and_a_device_get_the_bytes_and_stay_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    atomic_write(tmp_path / "fifo", "through")
    reader.join(60)
    assert got == [b"through"] and stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    atomic_write("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(DataError, match="No space left"):
        atomic_write("/dev/full", "x")


def test_a_descriptor_of_the_shells_is_written_to_and_appended(tmp_path):
    script = (
        "from lprnet_nb.files import atomic_write; print('first', flush=True)\n"
        "print(atomic_write('/dev/stdout', 'more\\n')); atomic_write('/dev/fd/1', 'end\\n')"
    )
    with open(tmp_path / "out", "w") as out:
        out.write("before\n")
        out.flush()
        inode = os.fstat(out.fileno()).st_ino
        subprocess.run([sys.executable, "-u", "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\nfirst\nmore\n/dev/stdout\nend\n"
    assert (tmp_path / "out").stat().st_ino == inode


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(tmp_path, monkeypatch):
    script = (
        "import os, signal, sys; from lprnet_nb.files import write_whole\n"
        "write_whole(sys.argv[1], lambda file: os.kill(os.getpid(), signal.SIGKILL))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "lost"])
    [left] = tmp_path.iterdir()
    held = []
    files.write_whole(tmp_path / "slow", lambda file: held.extend(_parts_after(tmp_path, left)))
    assert len(held) == 1 and "slow" in held[0]
    assert sorted(os.listdir(tmp_path)) == ["later", "slow"]


def _parts_after(folder, left):
    """What is left of parts after another write, long after all of them were begun."""
    for path in folder.glob(".*.part"):
        os.utime(path, (0, 0))
    files._swept.clear()
    atomic_write(folder / "later", "x")
    return [path.name for path in folder.glob(".*.part")]


def test_the_longest_name_can_be_written(tmp_path):
    assert atomic_write(tmp_path / ("车" * 85), "x").read_text() == "x"


@pytest.fixture
def odd(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "zero").symlink_to("/dev/zero")
    return tmp_path


@pytest.mark.parametrize(
    "name, why",
    [
        ("fifo", "FIFO"),
        ("zero", "device"),
        ("socket", "No such device"),
        ("folder", "folder|directory"),
        ("sparse", "1,099,511,627,776 bytes"),
        ("none", "No such file"),
    ],
)
def test_only_regular_files_of_bounded_size_are_read(odd, name, why):
    for read in (read_bytes, read_picture, file_digest):
        with pytest.raises(OSError, match=why):
            read(odd / name)


def test_a_file_as_large_as_the_limit_is_read_and_a_larger_one_is_not(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="at most 4"):
        read_bytes(tmp_path / "file", 4)
    with pytest.raises(OSError, match="bytes"), open_input("/proc/self/maps") as file:
        # Files of /proc say that they are empty.
        assert os.fstat(file.fileno()).st_size == 0
        read_bytes("/proc/self/maps", 100)


def test_what_begins_as_no_picture_is_not_read_to_its_end(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + bytes(100))
    assert len(read_picture(tmp_path / "a.jpg")) == 102
    with open(tmp_path / "b.jpg", "wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(OSError, match="does not begin as a picture"):
        read_picture(tmp_path / "b.jpg")


@pytest.mark.parametrize("settled", [None, -1], ids=["at once", "known"])
def test_a_digest_is_of_what_the_file_holds_now(tmp_path, monkeypatch, settled):
    """Same size, same time of writing; at once, or when the digest has been kept already."""
    if settled is not None:
        monkeypatch.setattr(cache, "_SETTLED_NS", settled)
    path, found = tmp_path / "file", []
    path.touch()
    for text in ("one", "two") * (100 if settled is None else 2):
        if settled is not None:
            time.sleep(0.05)  # ticks of the file system's clock
        with open(path, "r+") as file:
            file.write(text)
        os.utime(path, (1, 1))
        found.append(file_digest(path))
    assert found[0] != found[1] and found == found[:2] * (len(found) // 2)


def test_a_private_folder_goes_with_its_process_and_a_killed_ones_with_the_next(tmp_path):
    script = (
        "import os, signal, sys; from lprnet_nb.files import private_folder\n"
        "print(private_folder(), flush=True); (private_folder() / 'x').touch()\n"
        "os.utime(private_folder() / '.held', (0, 0))\n"
        "if sys.argv[1] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    def run(how: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, how],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            text=True,
            capture_output=True,
        ).stdout.strip()

    left = run("killed")
    assert os.listdir(tmp_path) == [os.path.basename(left)] and mode(tmp_path / left) == 0o700
    run("ended")
    assert os.listdir(tmp_path) == []


def test_a_private_folder_is_made_while_another_process_clears_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "_private", {})
    gone = tmp_path / f"lprnet-{os.getuid()}-gone"
    monkeypatch.setattr(Path, "glob", lambda *_: [gone])  # as it was listed a moment ago
    assert files.private_folder().parent == tmp_path
