"""What --help and --version print."""

from __future__ import annotations

import sys

from bulkhead import __version__
from bulkhead.runtime.command.arguments import SWITCH, Options
from bulkhead.runtime.command.verbs import GLOBAL, VERBS

SPEC_VERSION = "1.2.1"


def version(program: str) -> str:
    """Peers read the first line's last word, and the lines that begin with commit: and spec:."""
    return f"{program} version {__version__}\ncommit: {__version__}\nspec: {SPEC_VERSION}\npython: {_python()}\n"


def general(program: str) -> str:
    verbs = "\n".join(f"   {name:12}{verb.summary}" for name, verb in sorted(VERBS.items()))
    return (
        f"NAME:\n   {program} - Open Container Initiative runtime of Bulkhead\n\n"
        f"USAGE:\n   {program} [global options] command [command options] [arguments...]\n\n"
        f"VERSION:\n   {__version__}\n\nCOMMANDS:\n{verbs}\n\nGLOBAL OPTIONS:\n{_options(GLOBAL)}\n"
    )


def of_verb(program: str, name: str) -> str:
    verb = VERBS[name]
    return (
        f"NAME:\n   {program} {name} - {verb.summary}\n\n"
        f"USAGE:\n   {program} {name} [command options] {verb.usage}\n\nOPTIONS:\n{_options(verb.options)}\n"
    )


def _options(options: Options) -> str:
    lines = []
    for spelled, kind in options.names.items():
        long, *short = spelled.split()
        value = "" if kind == SWITCH else " value"
        lines.append("   " + ", ".join([f"--{long}{value}", *(f"-{name}{value}" for name in short)]))
    return "\n".join(lines)


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
