"""Limits of containers and service managers are read from trees of control groups."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trine.runtime.engines.ort.session import choose_settings
from trine.runtime.hardware.cgroup import memory_limits
from trine.runtime.hardware.memory import available_bytes, total_bytes
from trine.runtime.hardware.processors import num_processors

GIB = 1 << 30
Tree = Callable[..., tuple[Path, Path]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Writes /proc/self/cgroup and files of groups, by path; returns the two roots."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def write(membership: str, files: dict[str, str]) -> tuple[Path, Path]:
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        cgroup.mkdir()
        (proc / "self" / "cgroup").write_text(membership)
        (proc / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")
        for name, content in files.items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(content)
        return proc, cgroup

    return write


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 64),
        ("100000 100000", 1),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("120000 100000", 1),
        ("10000 100000", 1),
        ("6400000 50000", 64),
        ("", 64),
        ("nonsense", 64),
        ("100000 0", 64),
    ],
)
def test_a_quota_of_version_2_bounds_the_threads(tree: Tree, quota: str, threads: int) -> None:
    assert num_processors(*tree("0::/app\n", {"app/cpu.max": quota})) == threads


def test_a_quota_of_version_1_bounds_the_threads(tree: Tree) -> None:
    membership = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"
    files = {
        "cpu,cpuacct/docker/a/cpu.cfs_quota_us": "200000\n",
        "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/docker/a/memory.limit_in_bytes": f"{4 * GIB}\n",
        "memory/docker/a/memory.usage_in_bytes": f"{3 * GIB}\n",
        "memory/docker/a/memory.stat": f"cache {GIB}\nactive_file 1\ntotal_active_file {GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    roots = tree(membership, files)
    assert num_processors(*roots) == 2
    assert (total_bytes(*roots), available_bytes(*roots)) == (4 * GIB, 2 * GIB)


def test_the_tightest_ancestor_counts(tree: Tree) -> None:
    files = {
        "pods/cpu.max": "200000 100000",
        "pods/memory.max": f"{2 * GIB}",
        "pods/memory.current": f"{GIB}",
        "pods/one/cpu.max": "max 100000",
        "pods/one/memory.max": f"{8 * GIB}",
        "pods/one/memory.current": "0",
        "pods/one/memory.high": "max",
        "pods/other/cpu.max": "100000 100000",
    }
    roots = tree("0::/pods/one\n", files)
    assert num_processors(*roots) == 2
    assert (total_bytes(*roots), available_bytes(*roots)) == (2 * GIB, GIB)


def test_a_container_that_sees_its_group_as_the_root(tree: Tree) -> None:
    files = {"cpu.max": "300000 100000", "memory.max": str(GIB), "memory.current": "0"}
    roots = tree("0::/../../kubepods/pod1/abc\n", files)
    assert num_processors(*roots) == 3
    assert total_bytes(*roots) == GIB


def test_page_cache_counts_as_available(tree: Tree) -> None:
    files = {
        "memory.max": str(16 * GIB),
        "memory.current": str(16 * GIB - (100 << 20)),
        "memory.stat": f"anon {2 * GIB}\nfile {14 * GIB}\nactive_file {6 * GIB}\n"
        f"inactive_file {8 * GIB}\n",
    }
    assert available_bytes(*tree("0::/\n", files)) == 14 * GIB + (100 << 20)


def test_a_soft_limit_counts(tree: Tree) -> None:
    files = {"memory.max": "max", "memory.high": str(GIB), "memory.current": "0"}
    assert available_bytes(*tree("0::/\n", files)) == GIB


def test_without_limits_the_machine_counts(tree: Tree) -> None:
    roots = tree("", {})
    assert memory_limits(*roots) == []
    assert num_processors(*roots) == 64
    assert (total_bytes(*roots), available_bytes(*roots)) == (64 * GIB, 32 * GIB)


def test_weights_are_not_repacked_beyond_what_the_container_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trine.runtime.engines.ort.session.available_bytes", lambda: 340 << 20)
    assert not choose_settings(1, 300 << 20).repack
    assert choose_settings(1, 100 << 20).repack


def test_a_real_group_is_read() -> None:
    """In groups of its own with one processor's time and 1 GiB, where this test may make some."""
    root, name = Path("/sys/fs/cgroup"), f"trine-test-{os.getpid()}"
    if (root / "cgroup.controllers").exists():
        settings = {root / name: {"cpu.max": "100000 100000", "memory.max": str(GIB)}}
    else:
        settings = {
            root / "cpu" / name: {"cpu.cfs_quota_us": "100000"},
            root / "memory" / name: {"memory.limit_in_bytes": str(GIB)},
        }
    made = []
    try:
        for group, values in settings.items():
            group.mkdir()
            made.append(group)
            for file, value in values.items():
                (group / file).write_text(value)
        code = "import os, pathlib, sys\n"
        for group in made:
            code += f"pathlib.Path({str(group)!r}, 'cgroup.procs').write_text(str(os.getpid()))\n"
        code += (
            "from trine.runtime.hardware.memory import available_bytes, total_bytes\n"
            "from trine.runtime.hardware.processors import num_processors\n"
            "print(num_processors(), total_bytes(), available_bytes())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    except OSError as cause:
        pytest.skip(f"no control groups with limits can be made here ({cause})")
    finally:
        for group in made:
            group.rmdir()
    assert done.returncode == 0, done.stderr
    threads, total, available = map(int, done.stdout.split())
    assert (threads, total) == (1, GIB)
    assert GIB // 2 < available <= GIB
