"""Builds the C extension; everything else is in pyproject.toml.

The stage program `nsinit` is linked first, statically and without a libc, then embedded in the
extension as read-only data; `docker-init`, which containers get by --init, is made alike and lies
beside it. Needs gcc (or $CC) and the kernel's headers; downloads nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("services/bulkhead/nsexec/csrc")
INIT = Path("bulkhead/nsexec/docker-init")
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Wstrict-prototypes"]
if os.environ.get("BULKHEAD_WERROR"):
    WARNINGS.append("-Werror")
# No libc means none of what a libc would set up: thread-local canaries, unwinder, builtin memcpy loops.
STAGE_FLAGS = [
    "-std=gnu11",
    "-O2",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",
    "-fno-pie",
    "-no-pie",
    "-static",
    "-nostdlib",
    "-nostartfiles",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=none",
    "-s",
]


class BuildNsexec(build_ext):
    """Links the stage, turns it into an object file, then builds the extension with it."""

    def build_extension(self, ext: Extension) -> None:
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        stage, image = objects / "nsinit", objects / "stage_image.o"
        sources = sorted(map(str, (CSRC / "nsinit").glob("*.c")))
        command = [*compiler, *WARNINGS, *STAGE_FLAGS, "-o", str(stage), *sources, str(CSRC / "plan.c")]
        subprocess.run(command, check=True)
        self._link_init(compiler)
        path = f'-DBULKHEAD_STAGE_PATH="{stage.resolve()}"'
        subprocess.run([*compiler, "-c", path, "-o", str(image), str(CSRC / "stage_image.S")], check=True)
        ext.extra_objects = [str(image)]
        super().build_extension(ext)

    def _link_init(self, compiler: list[str]) -> None:
        program = Path(self.build_lib) / INIT
        program.parent.mkdir(parents=True, exist_ok=True)
        sources = sorted(map(str, (CSRC / "init").glob("*.c")))
        subprocess.run([*compiler, *WARNINGS, *STAGE_FLAGS, "-o", str(program), *sources], check=True)

    def copy_extensions_to_source(self) -> None:
        """Called where the package is used from the source tree."""
        super().copy_extensions_to_source()
        self.copy_file(str(Path(self.build_lib) / INIT), str(Path("services") / INIT))


setup(
    ext_modules=[
        Extension(
            "bulkhead.nsexec._nsexec",
            sources=[str(CSRC / name) for name in ("module.c", "spawn.c", "plan.c", "memory.c", "lines.c", "trees.c")],
            depends=[*map(str, CSRC.glob("*.h")), *map(str, CSRC.glob("*init/*"))],
            # The distribution's Python asks for -O2, with which gcc counts a log's bytes one by one, not 16 at once.
            extra_compile_args=["-std=gnu11", "-O3", *WARNINGS, "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNsexec},
)
