"""Builds the processor's kernels: one library, each of its folders with flags of its own.

pyproject.toml has all else. A folder whose instructions the compiler does not know is left out, and
where there is no compiler the whole library is: `trine doctor` says so. The library is loaded by
ctypes and knows nothing of Python, so one wheel of a platform serves every version of Python 3.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

NATIVE = Path("kernels/cpu/native")
#: Nothing of these kernels is thrown, and a product and a sum are one operation only where it is
#: written so: one vector's numbers must not depend on how the compiler joins them.
FLAGS = ["-O3", "-std=c++17", "-pthread", "-fvisibility=hidden", "-ffp-contract=off"]
#: GCC 12 takes its own headers' undefined vectors for mistakes.
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
AVX512_BF16 = [*AVX512, "-mavx512bf16"]
#: Folders with what the compiler must be told, of x86 and of 64-bit ARM.
FOLDERS = {
    "portable": [],
    "avx2": AVX2,
    "avx_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_bf16": AVX512_BF16,
    "amx": [*AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}
ARM_FOLDERS = {
    "portable": [],
    "neon": [],
    "neon_dotprod": ["-march=armv8.2-a+dotprod"],
    "neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
}
#: By the end of a platform's name, which is the machine that is compiled for.
MACHINES = {"x86_64": FOLDERS, "amd64": FOLDERS, "aarch64": ARM_FOLDERS, "arm64": ARM_FOLDERS}


def sources(folder: str) -> list[str]:
    """Return the C++ files of a folder."""
    return sorted(path.as_posix() for path in (NATIVE / folder).glob("*.cpp"))


def folders_of(platform: str) -> dict[str, list[str]]:
    """Return the folders for a platform ("linux-x86_64"): on any other machine the plain ones."""
    for machine, folders in MACHINES.items():
        if platform.lower().endswith(machine):
            return folders
    return {"portable": []}


class BuildKernels(build_ext):
    """Compiles each folder with its flags and links what could be compiled."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path, without a Python version in its name."""
        return "/".join(fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build the kernels, or say once what is missing: all else works without them."""
        try:
            self._build(ext)
        except (CCompilerError, BaseError) as cause:
            self.warn(
                "Trine's native kernels are left out, so int8 bundles are slower on processors "
                f"with AVX2: {cause}; for the kernels install a C++ compiler (Debian and Ubuntu: "
                "apt-get install g++) and Trine again, with --no-cache-dir"
            )

    def _build(self, ext: Extension) -> None:
        """Compile the folders, tell `common` which there are, and link them into `ext`."""
        self._compile_empty([])
        for folder, flags in folders_of(self.plat_name).items():
            if not self._knows(flags):
                self.warn(f"kernels without {folder}: the compiler does not know {flags}")
                continue
            ext.extra_objects += self._compiled(folder, flags)
            ext.define_macros.append((f"TRINE_WITH_{folder.upper()}", None))
        super().build_extension(ext)

    def _knows(self, flags: list[str]) -> bool:
        try:
            self._compile_empty(flags)
        except CompileError:
            return False
        return True

    def _compile_empty(self, flags: list[str]) -> None:
        """Compile an empty file; the compiler's own error says what it does not take."""
        empty = Path(self.build_temp) / "empty.cpp"
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("", encoding="utf-8")
        self.compiler.compile([str(empty)], output_dir=self.build_temp, extra_postargs=flags)

    def _compiled(self, folder: str, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            sources(folder),
            output_dir=self.build_temp,
            macros=[("TRINE_ISA", folder)],
            extra_postargs=[*FLAGS, *QUIET, *flags, "-fno-exceptions"],
        )


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its ABI and the platform."""
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    setup(
        cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
        ext_modules=[
            Extension(
                "trine.kernels.cpu._native",
                sources=sources("common"),
                depends=sorted(
                    path.as_posix() for path in NATIVE.rglob("*") if path.suffix in (".h", ".cpp")
                ),
                define_macros=[("TRINE_ISA", "common")],
                extra_compile_args=FLAGS,
                extra_link_args=["-pthread"],
                language="c++",
                optional=True,
            )
        ],
    )
