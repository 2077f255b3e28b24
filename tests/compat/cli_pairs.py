"""The docker CLI's words and exit codes, engine beside engine: every command of cli_pairs.txt, and where they differ.

    python -m tests.compat.cli_pairs unix:///run/docker.sock unix:///run/bulkhead/docker.sock [scenario...]

The first is the yardstick (dockerd), the second is judged. Both need busybox, alpine and hello-world. **All containers,
networks and volumes of both are removed.** Ids, times, addresses and directories are made equal before comparing.

Differences that are meant are in cli_pairs_known.toml, each with its reason: those as Docker 28 has them (read in its
source) where the yardstick is older, those of the machine, and our own. Any other is an error.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("cli_pairs.txt")
KNOWN = TABLE.with_name("cli_pairs_known.toml")
KINDS = {"docker28": "as Docker 28 does", "here": "for this machine or set-up", "ours": "by our own choice"}
SECONDS = 60
_CLEAN = "docker rm -fv $(docker ps -aq); docker network prune -f; docker volume prune -af || docker volume prune -f"
_EQUAL = (
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<short>"),
    (r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "<mac>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d{4} UTC|Z)?", "<time>"),
    (r"(Less than a second|About a minute|About an hour|\d+ (seconds?|minutes?|hours?))( ago)?", "<ago>"),
    (r"\b(172\.\d+|10\.(?!241)\d+)\.\d+\.\d+", "<address>"),
    (r"(/\S+)?/volumes/", "<root>/volumes/"),
    (r"(?<=time \()1[78]\d{8}\b", "<seconds>"),
    # The client's own, when the daemon refuses before all was sent: a matter of time.
    (r'^time=\S+ level=error msg="Can\'t (add file|close tar writer).*\n', ""),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d", "<time>"),
    (r"/proc/\d+/ns/net|/\S+/netns/<short>", "<netns>"),
    (r'"Pid": [1-9]\d*', '"Pid": <pid>'),
    (r"^(root +)\d+ +\d+ +\d+ +\d\d:\d\d", r"\1<process>"),
    (r"\b(\d+\.\d+)%", "<percent>"),
    (r"[ \t]+", " "),
)


class Said(NamedTuple):
    """What a command printed, and its end."""

    code: int | None
    out: str
    err: str


def table(wanted: list[str]) -> Iterator[tuple[str, str]]:
    """Scenario and command; an empty command begins a scenario."""
    scenario = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("== "):
            scenario = line[3:]
        if (wanted and not any(each in scenario for each in wanted)) or not line or line.startswith("#"):
            continue
        yield scenario, "" if line.startswith("== ") else line


def run(command: str, host: str, place: str) -> Said:
    environ = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": f"{place}/config", "W": place, "LC_ALL": "C"}
    environ |= {"BASH_ENV": str(TABLE.with_suffix(".sh")), "PAIRS": str(TABLE.parent)}
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            env=environ,
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Said(None, "", "")
    return Said(done.returncode, *(_equal(text.decode(errors="replace"), place) for text in (done.stdout, done.stderr)))


def _equal(text: str, place: str) -> str:
    text = text.replace(place, "<place>")
    for pattern, name in _EQUAL:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text


def said_by(host: str, wanted: list[str]) -> list[tuple[str, Said]]:
    """Every command of the table and its answer."""
    with tempfile.TemporaryDirectory(prefix="bh-pairs-", dir="/tmp") as place:
        answers = []
        for scenario, command in table(wanted):
            if not command:
                run(_CLEAN, host, place)
            else:
                answers.append((f"[{scenario}] {command}", run(command, host, place)))
        run(_CLEAN, host, place)
        return answers


def known() -> Mapping[str, Mapping[str, str]]:
    """By command: `kind`, `reason`, and in `ours` what our answer must say where it differs (a pattern)."""
    entries = tomllib.loads(KNOWN.read_text())["known"]
    for each in entries:
        if each["kind"] not in KINDS or not each["reason"]:
            raise ValueError(f"{KNOWN.name}: {each['line']}: a kind of {', '.join(KINDS)} and a reason are wanted")
    return {each["line"]: each for each in entries}


def explained(entry: Mapping[str, str] | None, ours: Said) -> bool:
    """Whether a difference is one that is meant."""
    return entry is not None and re.search(entry.get("ours", ""), f"{ours.code}\n{ours.out}\n{ours.err}") is not None


def show(command: str, theirs: Said, ours: Said) -> None:
    """One difference."""
    print(f"### {command}")
    for name, one, other in zip(Said._fields, map(str, theirs), map(str, ours), strict=True):
        print(*difflib.unified_diff(one.splitlines(), other.splitlines(), name, name, n=0, lineterm=""), sep="\n")


def main(arguments: list[str]) -> int:
    """Print the differences that nobody meant; 1 when there is any."""
    yardstick, judged, *wanted = arguments
    meant, counts = known(), Counter[str]()
    pairs = list(zip(said_by(yardstick, wanted), said_by(judged, wanted), strict=True))
    for (command, theirs), (_, ours) in pairs:
        entry = meant.get(command)
        if theirs == ours and ours.code is not None:  # that neither ended shows nothing
            if entry is not None:
                print(f"no longer different: {command}")
        elif entry is not None and explained(entry, ours):
            counts[entry["kind"]] += 1
        else:
            counts["unexplained"] += 1
            show(command, theirs, ours)
    print(f"{len(pairs)} commands; unexplained differences: {counts['unexplained']}")
    for kind, words in KINDS.items():
        print(f"  differ {words}: {counts[kind]}")
    return 1 if counts["unexplained"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
