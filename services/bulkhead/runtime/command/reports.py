"""state, list, ps: what there is, as JSON or as a table."""

from __future__ import annotations

import json
import sys
from typing import Any

from bulkhead.errors import BulkheadError, Internal, InvalidArgument
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.state import container_ids, described


def state(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    record = container.load()
    sys.stdout.write(json.dumps(described(record, container.status(record)), indent=2))
    return 0


def listing(context: Context, arguments: Arguments) -> int:
    form = arguments.text("format") or "table"
    found = list[dict[str, Any]]()
    for name in container_ids(context.root):
        try:
            container = context.container(name)
            record = container.load()
            found.append({**described(record, container.status(record)), "owner": _owner(record.owner)})
        except BulkheadError as error:
            sys.stderr.write(f"load container {name}: {error}\n")
    if arguments.switch("quiet"):
        sys.stdout.write("".join(f"{entry['id']}\n" for entry in found))
    elif form == "json":
        sys.stdout.write(json.dumps(found or None, separators=(",", ":")) + "\n")
    elif form == "table":
        keys = ("id", "pid", "status", "bundle", "created", "owner")
        _table([tuple(key.upper() for key in keys), *(tuple(str(entry[key]) for key in keys) for entry in found)])
    else:
        raise InvalidArgument("invalid format option")
    return 0


def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _table(rows: list[tuple[str, ...]]) -> None:
    """Columns at least twelve wide, three blanks between them, the last as it comes."""
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row[:-1], widths, strict=False)]
        sys.stdout.write("".join([*cells, row[-1]]) + "\n")


def processes(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    record = container.load()
    pids = [pid for pid in record.group().pids() if pid]
    form = arguments.text("format") or "table"
    if form == "json":
        sys.stdout.write(json.dumps(pids, separators=(",", ":")) + "\n")
    elif form == "table":
        sys.stdout.write("".join(_rows_of(pids, arguments.positional[1:] or ["-ef"])))
    else:
        raise InvalidArgument("invalid format option")
    return 0


def _rows_of(pids: list[int], options: list[str]) -> list[str]:
    """The host's ps, filtered by its PID column."""
    import subprocess

    done = subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise InvalidArgument(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    title, *lines = done.stdout.splitlines(keepends=True)
    if "PID" not in title.split():
        raise Internal("couldn't find PID field in ps output")
    column = title.split().index("PID")
    wanted = set(map(str, pids))
    return [title, *(line for line in lines if line.split()[column : column + 1] and line.split()[column] in wanted)]
