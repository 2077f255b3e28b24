"""How a container's last execs went: a file beside its shim's sockets, for whoever has seen an exec's end and asks for
its code next. He is spared the manager, who has been told the same and answers for all others.

Slots of one size, picked by the exec's id; a later exec's end takes the place of an earlier one's. A slot is a
checksum, a length and a line of JSON as in `shim.new_execs`: what is read while it is written is nobody's.
"""

from __future__ import annotations

import binascii
import os
import struct

NAME = "ended"
_SLOTS, _SIZE = 16, 1024
_HEAD = struct.Struct("=II")


def create(run_dir: str) -> int:
    """A descriptor for `write`. Raises OSError."""
    return os.open(f"{run_dir}/{NAME}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def write(descriptor: int, exec_id: str, line: bytes) -> None:
    """Nothing when it does not fit. Raises OSError."""
    if len(line) <= _SIZE - _HEAD.size:
        os.pwrite(descriptor, _HEAD.pack(binascii.crc32(line), len(line)) + line, _place(exec_id))


def read(run_dir: str, exec_id: str) -> bytes:
    """The line in the exec's slot, which may be another's; empty without one."""
    return _line(_content(run_dir, _SIZE, _place(exec_id)))


def read_all(run_dir: str) -> list[bytes]:
    """The line of each slot that has one, for who comes when the shim is dead, and whoever it told."""
    content = _content(run_dir, _SLOTS * _SIZE, 0)
    slots = (content[place : place + _SIZE] for place in range(0, len(content), _SIZE))
    return [line for slot in slots if (line := _line(slot))]


def _content(run_dir: str, size: int, place: int) -> bytes:
    """What is there; nothing of a file that cannot be read."""
    try:
        descriptor = os.open(f"{run_dir}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, size, place)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _line(slot: bytes) -> bytes:
    if len(slot) < _HEAD.size:
        return b""
    checksum, length = _HEAD.unpack_from(slot)
    line = slot[_HEAD.size : _HEAD.size + length]
    return line if length and binascii.crc32(line) == checksum else b""


def _place(exec_id: str) -> int:
    return int(exec_id[:2], 16) % _SLOTS * _SIZE
