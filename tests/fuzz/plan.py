"""Builds and runs the fuzzer of the launch plan's decoder.

python -m tests.fuzz.plan [seconds]     `make fuzz TIME=seconds`; new inputs are kept in tests/fuzz/corpus/plan
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.unit.nsexec.plans import FULL, LEAST

HERE = Path(__file__).parent
CORPUS = HERE / "corpus" / "plan"
CSRC = HERE.parents[1] / "services" / "bulkhead" / "nsexec" / "csrc"
UNIT = HERE.parent / "unit" / "nsexec"
_SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_COVERAGE = ["-fsanitize-coverage=trace-pc,trace-cmp"]


def build(directory: Path, decoder: Path = CSRC / "plan.c") -> Path:
    """The fuzzer, its decoder instrumented. Raises CalledProcessError."""
    instrumented, program = directory / "plan.o", directory / "plan_fuzz"
    _gcc(*_SANITIZERS, *_COVERAGE, "-c", "-o", str(instrumented), str(decoder))
    sources = [str(HERE / "plan_fuzz.c"), str(instrumented)]
    _gcc(*_SANITIZERS, "-I", str(CSRC), "-I", str(UNIT), "-o", str(program), *sources)
    return program


def run(program: Path, seconds: int, corpus: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz for a while, beginning with the corpus and with sound plans of today's layout."""
    corpus.mkdir(parents=True, exist_ok=True)
    for name, plan in (("full", FULL), ("least", LEAST)):
        (corpus / name).write_bytes(plan.encode())
    command = ["nice", "-n", "19", str(program), str(seconds), str(corpus)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _gcc(*arguments: str) -> None:
    subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", *arguments], check=True)


def main() -> int:
    """As the module says."""
    with tempfile.TemporaryDirectory(prefix="bh-fuzz-") as place:
        done = run(build(Path(place)), int(sys.argv[1]) if len(sys.argv) > 1 else 60, CORPUS)
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
