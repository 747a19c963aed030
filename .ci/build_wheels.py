"""Builds the sdist and, from it, a wheel for each platform, and audits the wheels.

    python .ci/build_wheels.py [--out dist] [--platform linux-x86_64] ...

The compiler is zig's, a package of the index: it links against the symbols of an old glibc and
brings its C++ library along, so a wheel built anywhere runs on any Linux of the last years, and it
compiles for ARM on x86. Needs `build`, `ziglang` and `auditwheel`.
"""

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The oldest glibc that a wheel runs with: of Debian 10, RHEL 8 and Ubuntu 18.10.
GLIBC = (2, 28)
#: Platforms by Python's name, with the compiler's.
PLATFORMS = {"linux-x86_64": "x86_64-linux-gnu", "linux-aarch64": "aarch64-linux-gnu"}
#: zig names a processor where GCC and clang name an architecture.
COMPILER = """#!/bin/sh
for word; do
  shift
  case "$word" in -march=armv8.2-a*) word="-mcpu=generic${{word#-march=armv8.2-a}}" ;; esac
  set -- "$@" "$word"
done
exec '{python}' -m ziglang c++ -target {target} "$@"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the sdist and the wheels, audited.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder (default: dist)")
    parser.add_argument(
        "--platform",
        action="append",
        choices=sorted(PLATFORMS),
        help="to build for; may be given again (default: all)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sdist = build("--sdist", ROOT, options.out, os.environ.copy())
        with tarfile.open(sdist) as archive:
            # The filter came with 3.11.4; what is unpacked was packed here.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(folder)
        source = Path(folder) / sdist.name.removesuffix(".tar.gz")
        for platform in options.platform or PLATFORMS:
            wheel = build_wheel(platform, source, options.out, Path(folder))
            audit(wheel)
            print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")
    print(f"{sdist}: {sdist.stat().st_size / 1e6:.1f} MB")


def build_wheel(platform: str, source: Path, out: Path, scratch: Path) -> Path:
    """Return the wheel for a platform, built from an unpacked sdist."""
    compiler = scratch / f"c++-{platform}"
    target = f"{PLATFORMS[platform]}.{GLIBC[0]}.{GLIBC[1]}"
    compiler.write_text(COMPILER.format(python=sys.executable, target=target), encoding="utf-8")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": platform,
        "CC": str(compiler),
        "CXX": str(compiler),
        # Not those that this machine's Python was built with.
        "CFLAGS": "",
        "LDFLAGS": "",
        "LDSHARED": f"{compiler} -shared -s",
        "LDCXXSHARED": f"{compiler} -shared -s",
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build/zig"),
    }
    tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{platform.removeprefix('linux-')}"
    copy = shutil.copytree(source, scratch / platform)
    return build("--wheel", copy, out, environment, f"-C--build-option=--plat-name={tag}")


def build(kind: str, source: Path, out: Path, environment: dict[str, str], *more: str) -> Path:
    """Return what `python -m build` makes; its output is shown where it fails."""
    with tempfile.TemporaryDirectory() as made:
        words = [sys.executable, "-P", "-m", "build", kind, "--outdir", made, *more, str(source)]
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, cwd=made
        )
        if done.returncode:
            sys.exit(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\nfailed: {' '.join(words)}")
        if "kernels are left out" in done.stderr or "kernels without" in done.stderr:
            sys.exit(f"{done.stderr[-4000:]}\na wheel without all kernels is none to publish")
        (path,) = Path(made).iterdir()
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(path, out / path.name))


def audit(wheel: Path) -> None:
    """End the program unless auditwheel grants the wheel its platform, or an older one."""
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    answer = " ".join(done.stdout.split())
    machine = wheel.stem.rpartition("manylinux_")[2].split("_", 2)[2]
    granted = re.search(rf'consistent with .* tag: "manylinux_(\d+)_(\d+)_{machine}"', answer)
    if granted is None or tuple(map(int, granted.groups())) > GLIBC:
        sys.exit(f"{wheel.name}: auditwheel does not grant its platform:\n{answer}{done.stderr}")


if __name__ == "__main__":
    main()
