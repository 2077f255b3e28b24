"""The extension built with AddressSanitizer and UBSan, and the tests that go through it, run on it.

python -m tests.support.sanitized [pytest arguments]     `make test-sanitizers`

The interpreter is not instrumented: the sanitizers' libraries are preloaded, and leaks are not looked for (CPython
has its own at exit); tests/bench/spawn_leaks.py looks for those. The stage program has no libc, thus no sanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
EXTENSION = "bulkhead/nsexec/_nsexec.abi3.so"
TESTS = (
    "tests/unit/nsexec",
    "tests/unit/shim/test_jsonfile.py",
    "tests/integration/runtime",
    "tests/security/runtime",
    "tests/integration/nsexec",
)
_SANITIZE = "-fsanitize=address,undefined"
_OPTIONS = "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0"


def build(place: Path) -> Path:
    """A copy of the package with an instrumented extension; the directory to import it from."""
    environ = {
        **os.environ,
        "CFLAGS": f"-g -O1 {_SANITIZE} -fno-sanitize-recover=undefined -fno-omit-frame-pointer",
        "LDSHARED": f"gcc -shared {_SANITIZE}",
    }
    command = ["setup.py", "-q", "build_ext", "--build-temp", f"{place}/temp", "--build-lib", f"{place}/lib"]
    subprocess.run([sys.executable, *command], cwd=PROJECT, env=environ, check=True)
    shutil.copytree(PROJECT / "services" / "bulkhead", place / "tree" / "bulkhead")
    shutil.copy(place / "lib" / EXTENSION, place / "tree" / EXTENSION)
    return place / "tree"


def environment(tree: Path) -> dict[str, str]:
    """For a Python that imports the package from `tree`."""
    names = ("libasan.so", "libubsan.so")
    found = [subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in names]
    return {**os.environ, "PYTHONPATH": str(tree), "LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": _OPTIONS}


def main(arguments: list[str]) -> int:
    """As the module says."""
    with tempfile.TemporaryDirectory(prefix="bh-san-", dir="/tmp") as place:
        environ = environment(build(Path(place)))
        which = "import bulkhead.nsexec._nsexec as core; print(core.__file__)"
        loaded = subprocess.check_output([sys.executable, "-c", which], env=environ, text=True)
        assert loaded.startswith(place), f"the tests would run on {loaded}"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(arguments or TESTS)]
        return subprocess.run(command, cwd=PROJECT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
