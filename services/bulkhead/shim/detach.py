"""Detach keys: the sequence by which an attached terminal leaves without ending the process."""

from __future__ import annotations

from bulkhead.errors import InvalidArgument

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = {f"ctrl-{chr(code)}": code - 96 for code in range(ord("a"), ord("z") + 1)}
_CONTROL |= {"ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31}


def parse(text: str) -> bytes:
    """`ctrl-p,x` as bytes; empty is the default. InvalidArgument for a key that Docker does not know."""
    keys = bytearray()
    for key in (text or DEFAULT).split(","):
        if len(key) == 1 and key.isascii():
            keys.append(ord(key))
        elif key in _CONTROL:
            keys.append(_CONTROL[key])
        else:
            raise InvalidArgument(f"Invalid escape keys ({text}) provided")
    return bytes(keys)


class DetachScanner:
    """Looks for the keys in what a client types. A prefix of them is held back until it is complete or broken."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What the process shall get, and whether the sequence is complete (what follows it is dropped)."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0] and len(self._keys) > 1:
                self._matched = 1
            else:
                passed.append(byte)
        return bytes(passed), False
