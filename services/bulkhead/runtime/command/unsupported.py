"""Checkpoint and restore need CRIU, which this runtime does not drive."""

from __future__ import annotations

from bulkhead.errors import NotImplementedYet
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context


def checkpoint(context: Context, arguments: Arguments) -> int:
    context.container(arguments.positional[0]).load()
    raise NotImplementedYet("cannot checkpoint the container: checkpoint is not supported")


def restore(_context: Context, _arguments: Arguments) -> int:
    raise NotImplementedYet("cannot restore the container: restore is not supported")
