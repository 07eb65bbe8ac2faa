"""The cache of kernels: below its limit, what was used longest ago goes first, whatever other processes do."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from mlc.codegen import disk_cache
from mlc.codegen.disk_cache import cache_dir, limit, read_checked, trim, write_checked
from mlc.compiler.cli import cli
from mlc.errors import InputError


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MLC_NO_CACHE", raising=False)
    monkeypatch.delenv("MLC_CACHE_LIMIT", raising=False)
    return tmp_path


def entry(name):
    return cache_dir() / name[:2] / name


def age(path, hours):
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_what_was_used_longest_ago_goes_first():
    names = [f"ab{i:02}.o" for i in range(10)]
    for i, name in enumerate(names):
        write_checked(entry(name), bytes(1000 - 40))
        age(entry(name), 10 + i)
    assert read_checked(entry(names[9])) is not None  # the oldest, used again
    assert trim(entry("ab").parent, 5000) == 6000  # an eighth is free then
    assert [n for n in names if entry(n).exists()] == [names[0], names[1], names[2], names[9]]
    assert trim(entry("ab").parent, 5000) == 0


def test_writing_keeps_folders_below_their_share(monkeypatch):
    monkeypatch.setenv("MLC_CACHE_LIMIT", "2560K")  # 10 KiB a folder
    for i in range(256):
        name = f"cd{i % 16:x}{i // 16:x}"
        write_checked(entry(name), bytes(3000))
        assert read_checked(entry(name)) == bytes(3000)  # the newest is not trimmed
    assert sum(e.size for e in disk_cache.entries(cache_dir() / "cd")) <= 10240 + 9 * 3040


def test_one_larger_than_its_share_is_kept(monkeypatch):
    monkeypatch.setenv("MLC_CACHE_LIMIT", "1K")
    write_checked(entry("ef00"), bytes(5000))
    assert read_checked(entry("ef00")) == bytes(5000)


def test_files_that_were_made_elsewhere_are_trimmed_too(folder, monkeypatch):
    monkeypatch.setenv("MLC_CACHE_LIMIT", "2560K")
    for i in range(40):
        made = folder / "made.so"
        made.write_bytes(bytes(3000))
        disk_cache.move_in(made, entry(f"cd{i % 16:x}{i // 16:x}.so"))
        age(entry(f"cd{i % 16:x}{i // 16:x}.so"), 50 - i)
    assert not made.exists() and sum(e.size for e in disk_cache.entries(cache_dir() / "cd")) <= 10240 + 9 * 3040
    monkeypatch.setenv("MLC_CACHE_LIMIT", "0")
    made.write_bytes(b"x")
    disk_cache.move_in(made, entry("ab0.so"))
    assert entry("ab0.so").exists()  # whoever made it opens it now


def test_processes_that_trim_at_once_do_not_disturb_readers(monkeypatch):
    monkeypatch.setenv("MLC_CACHE_LIMIT", "256K")

    def work(k):
        for i in range(60):
            name = f"ab{i % 16:x}{k % 2}"
            write_checked(entry(name), name.encode() * 50)
            assert read_checked(entry(name)) in (None, name.encode() * 50)
            trim(entry(name).parent, 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_limit(monkeypatch):
    assert limit() == 1 << 30
    for text, count in (("0", 0), ("12", 12), ("500M", 500 << 20), ("2g", 2 << 30), ("1GiB", 1 << 30), (" 3KB ", 3072), ("", 1 << 30)):
        monkeypatch.setenv("MLC_CACHE_LIMIT", text)
        assert limit() == count
    for text in ("x", "-1", "1.5G", "1P", "9" * 20):
        monkeypatch.setenv("MLC_CACHE_LIMIT", text)
        with pytest.raises(InputError, match="MLC_CACHE_LIMIT"):
            write_checked(entry("aa00"), b"x")
    monkeypatch.setenv("MLC_CACHE_LIMIT", "0")
    write_checked(entry("aa00"), b"x")
    assert not entry("aa00").exists()


def test_command(folder, monkeypatch):
    def run(*args):
        done = CliRunner().invoke(cli, ["cache", *args, "--json", "-"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert run() == {"folder": str(folder / "mlc"), "files": 0, "bytes": 0, "limit": 1 << 30, "removed": 0}
    for i in range(4):
        write_checked(entry(f"ab1{i}"), bytes(1000 - 40))
    tuned = folder / "mlc" / "tuned" / "kept.json"
    tuned.parent.mkdir()
    tuned.write_text("{}")
    assert run()["bytes"] == 4000 and run("--trim")["removed"] == 0
    monkeypatch.setenv("MLC_CACHE_LIMIT", str(256 * 2500))
    assert run("--trim")["removed"] == 2000
    assert run("--clear")["files"] == 0 and tuned.exists()
