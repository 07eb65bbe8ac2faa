"""Files appear whole or not at all; what is no plain file is written to, never replaced."""

import errno
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from mlc import MlcError
from mlc.errors import ArtifactError
from mlc.runtime.files import write_whole


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")

    def full(f) -> None:
        f.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MlcError, match="No space left"):
        write_whole(target, full)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(f) -> None:
        f.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "out", interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["none/out", "a\0b", "x" * 300, "folder", "folder/.", "file/out"])
def test_places_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_whole(os.path.join(tmp_path, name), lambda f: f.write(b"x"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_whole, args=(pipe, lambda f: f.write(b"content")))
    writer.start()
    assert pipe.read_bytes() == b"content"
    writer.join()
    assert pipe.is_fifo() and [p.name for p in tmp_path.iterdir()] == ["pipe"]


def archive(f) -> None:
    with zipfile.ZipFile(f, "w") as z:
        z.writestr("a", b"content")


def test_archives_go_through_pipes_and_to_devices(tmp_path: Path) -> None:
    write_whole("/dev/null", archive)
    script = (
        "import zipfile\nfrom mlc.runtime.files import write_whole\n"
        "def archive(f):\n    with zipfile.ZipFile(f, 'w') as z:\n        z.writestr('a', b'content')\n"
        "write_whole('/dev/stdout', archive)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    (tmp_path / "a.zip").write_bytes(told.stdout)
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        assert z.read("a") == b"content"


def test_devices() -> None:
    write_whole("/dev/null", lambda f: f.write(b"x"))
    assert Path("/dev/null").is_char_device()
    if Path("/dev/full").is_char_device():
        with pytest.raises(ArtifactError, match="No space left"):
            write_whole("/dev/full", lambda f: f.write(b"x" * 100_000))
        assert Path("/dev/full").is_char_device()


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", lambda f: f.write(b"x"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"x"


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    write_whole(tmp_path / ("n" * 255), lambda f: f.write(b"x"))
    assert [p.name for p in tmp_path.iterdir()] == ["n" * 255]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "f", lambda f: f.write(b"x"))
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
