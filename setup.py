"""Compiles the processor's kernels; an install without a C++ compiler says once what it lacks."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError


class BuildKernels(build_ext):
    """Goes on without the kernels where they cannot be compiled: everything else works."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (CCompilerError, BaseError) as cause:
            self.warn(
                "Trine's native kernels are left out, so int8 bundles are slower on processors "
                f"with AVX-512 VNNI: {cause}; for the kernels install a C++ compiler (Debian and "
                "Ubuntu: apt-get install g++) and Trine again, with --no-cache-dir"
            )


setup(cmdclass={"build_ext": BuildKernels})
