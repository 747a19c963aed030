"""Nothing leaves the machine and nothing is left in the home folder, unless it was asked for."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Notes every look-up of a name and every connection but those to the machine itself, also those
#: of native code.
WATCHER = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void note(const char *what, const char *name) {
  FILE *file = fopen(getenv("WATCHER_LOG"), "a");
  if (file) { fprintf(file, "%s %s\n", what, name); fclose(file); }
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
      dlsym(RTLD_NEXT, "getaddrinfo");
  if (node && strcmp(node, "127.0.0.1") && strcmp(node, "localhost")) note("looked up", node);
  return next(node, service, hints, found);
}
int connect(int fd, const struct sockaddr *address, socklen_t size) {
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  if (address->sa_family == AF_INET) {
    const struct in_addr *to = &((const struct sockaddr_in *)address)->sin_addr;
    if ((ntohl(to->s_addr) >> 24) != 127) note("connected to", inet_ntoa(*to));
  } else if (address->sa_family == AF_INET6) {
    note("connected to", "an IPv6 address");
  }
  return next(fd, address, size);
}
"""
PROGRAM = [sys.executable, "-m", "trine.runtime.commands.program"]


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """Environment of a process with a new home folder whose traffic is noted."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    source = tmp_path / "watcher.c"
    source.write_text(WATCHER)
    library = tmp_path / "watcher.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    home = tmp_path / "home"
    home.mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "HF_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {
        "HOME": str(home),
        "LD_PRELOAD": str(library),
        "WATCHER_LOG": str(tmp_path / "log"),
    }


def check_quiet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not log.exists() or log.read_text() == ""
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_the_watcher_sees_what_leaves(watched: dict[str, str], tmp_path: Path) -> None:
    code = "import socket; socket.getaddrinfo('example.invalid', 443)"
    subprocess.run([sys.executable, "-c", code], env=watched, check=False, capture_output=True)
    assert "looked up example.invalid" in (tmp_path / "log").read_text()


def test_embed_and_doctor_are_quiet(
    nano_bundle: Path, watched: dict[str, str], tmp_path: Path
) -> None:
    for arguments in (
        ["embed", str(nano_bundle), "--text", "a", "--task", "retrieval"],
        ["doctor", str(nano_bundle)],
    ):
        done = subprocess.run([*PROGRAM, *arguments], env=watched, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
    check_quiet(tmp_path)


def test_export_is_quiet(watched: dict[str, str], tmp_path: Path) -> None:
    bundle = str(tmp_path / "bundle")
    arguments = ["export", "nano", bundle, "--tasks", "code"]
    done = subprocess.run([*PROGRAM, *arguments], env=watched, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_quiet(tmp_path)


def test_a_server_is_quiet(nano_bundle: Path, watched: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs the `server` extra")
    arguments = ["serve", str(nano_bundle), "--port", "0", "--workers", "2"]
    log = tmp_path / "server.log"
    with log.open("w") as errors:
        server = subprocess.Popen([*PROGRAM, *arguments], env=watched, stderr=errors)
        try:
            until = time.monotonic() + 120
            while '"message":"ready"' not in log.read_text():
                assert server.poll() is None, log.read_text()
                if time.monotonic() > until:
                    pytest.fail(log.read_text())
                time.sleep(0.1)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    check_quiet(tmp_path)


@pytest.mark.parametrize("folder", ["export", "runtime", "benchmarks"])
def test_onnxruntime_is_imported_in_one_place(folder: str) -> None:
    """But for types, and by scripts of other projects' ways, whose environment is set for them."""
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        if ROOT / "benchmarks/backends" in path.parents:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        typing = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(n.split(".")[0] == "onnxruntime" for n in names) and id(node) not in typing:
                found.append(f"{path}:{node.lineno}")
    assert found == []
