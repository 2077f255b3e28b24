"""Memory that forks leave alone: what they run, and where they put what they make.

CPython writes to a function's code each time it runs it, until every instruction has a specialised form, and many
never get one: each of those pages is copied by every fork. `still_code` ends that: what is specialised stays so,
everything else runs as it was compiled. And a new object goes where an old one has been, between others that nobody
touches: `fill_holes` takes those places, so that what a fork makes lies together, in pages that are its own.

This knows CPython 3.11 from within, and does nothing where it finds something else.
"""

from __future__ import annotations

import ctypes
import dis
import gc
import struct
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

# PyCodeObject: co_flags and co_warmup, then, last of all, co_code_adaptive.
_FLAGS = 48
_WARMUP = struct.Struct("=ih")
_CODE = types.CodeType.__basicsize__
_ADAPTIVE = "_ADAPTIVE"
# Objects/obmalloc.c: a pool begins with how many of its blocks are taken.
_POOL = 16 << 10
_LARGEST = 512
_STEP = 16
_BYTES_OVERHEAD = 33
# More than this many objects of a size are not waited for.
_MOST = 20_000


def is_known() -> bool:
    """Whether this interpreter is the one that this module knows."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return False
    code = fill_holes.__code__
    return _flags(code) == code.co_flags and _memory(code).raw == _adaptive(code)


def still_code() -> int:
    """Let no function be warmed up or specialised any more; how many were."""
    if not is_known():
        return 0
    plain = {number: dis.opmap[_base(name)] for name, number in _opcodes().items() if name.endswith(_ADAPTIVE)}
    size = [2] * 256
    for name, number in _opcodes().items():
        size[number] += 2 * _caches(_base(name))
    seen = {id(code): code for code in _codes(gc.get_objects())}
    return sum(_still(code, plain, size) for code in seen.values())


def fill_holes() -> list[object]:
    """Take what is free between the interpreter's objects, for as long as the list lives."""
    if not is_known():
        return []
    kept: list[object] = []
    for size in range(_STEP, _LARGEST + 1, _STEP):
        _fill(size, kept)
    return kept


def _fill(size: int, kept: list[object]) -> None:
    for _ in range(_MOST):
        one = _object(size)
        if ctypes.c_uint.from_address(id(one) & -_POOL).value == 1:
            # The only one in its pool, so all others are full.
            return
        kept.append(one)


def _object(size: int) -> object:
    """That takes so many bytes of the interpreter's memory, and is known to no collector."""
    if size == _STEP:
        return object()
    if size == 2 * _STEP:
        return float(size)
    return bytes(size - _BYTES_OVERHEAD)


def _still(code: types.CodeType, plain: Mapping[int, int], size: Sequence[int]) -> bool:
    if _WARMUP.unpack_from(_header(code))[1]:
        # Counted up to 0, where it would be quickened: at 0 nothing is counted.
        _WARMUP.pack_into(_header(code), 0, code.co_flags, 0)
        return True
    instructions, position = bytearray(_adaptive(code)), 0
    while position < len(instructions):
        opcode = instructions[position]
        if opcode in plain:
            instructions[position] = plain[opcode]
        position += size[opcode]
    if instructions == _adaptive(code):
        return False
    ctypes.memmove(id(code) + _CODE, bytes(instructions), len(instructions))
    return True


def _codes(objects: Iterable[object]) -> Iterator[types.CodeType]:
    waiting = [each.__code__ for each in objects if isinstance(each, types.FunctionType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting.extend(each for each in code.co_consts if isinstance(each, types.CodeType))


def _opcodes() -> dict[str, int]:
    return cast("dict[str, int]", vars(dis)["_all_opmap"])


def _base(name: str) -> str:
    return cast("dict[str, str]", vars(dis)["deoptmap"]).get(name, name)


def _caches(name: str) -> int:
    counts = cast("list[int]", vars(dis)["_inline_cache_entries"])
    return counts[dis.opmap[name]] if name in dis.opmap else 0


def _adaptive(code: types.CodeType) -> bytes:
    return cast(bytes, cast(Any, code)._co_code_adaptive)


def _flags(code: types.CodeType) -> int:
    return cast(int, _WARMUP.unpack_from(_header(code))[0])


def _header(code: types.CodeType) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * _WARMUP.size).from_address(id(code) + _FLAGS)


def _memory(code: types.CodeType) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * len(code.co_code)).from_address(id(code) + _CODE)
