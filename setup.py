"""Builds the processor's kernels: one library, each of its folders with flags of its own.

pyproject.toml has all else. A folder whose instructions the compiler does not know is left out, and
where there is no compiler the whole library is: `trine doctor` says so.
"""

from pathlib import Path

from setuptools import Extension, setup
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
#: Folders with what the compiler must be told, by the machine that is compiled for.
FOLDERS = {
    "portable": [],
    "avx2": AVX2,
    "avx_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_bf16": AVX512_BF16,
    "amx": [*AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}
X86 = ("x86_64", "amd64")


def sources(folder: str) -> list[str]:
    """Return the C++ files of a folder."""
    return sorted(path.as_posix() for path in (NATIVE / folder).glob("*.cpp"))


class BuildKernels(build_ext):
    """Compiles each folder with its flags and links what could be compiled."""

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
        is_x86 = self.plat_name.lower().endswith(X86)
        for folder, flags in FOLDERS.items() if is_x86 else [("portable", [])]:
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


if __name__ == "__main__":
    setup(
        cmdclass={"build_ext": BuildKernels},
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
