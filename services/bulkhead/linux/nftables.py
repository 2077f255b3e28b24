"""nftables: tables through libnftables' stable C interface (libnftables(3)), elements straight to the kernel.

`Nftables` takes command text, one call one transaction, and answers in JSON. `change_elements`
makes netlink requests (linux/netfilter/nf_tables.h) for what is done for every container: it takes
the kernel a fifth of the time that the library's parsing and looking up takes. Everything raises
OSError; `NftablesMissing` names what to install.
"""

from __future__ import annotations

import ctypes
import errno
import json
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_network
from typing import Any

from bulkhead.linux.netlink import Deletions, Netlink, attribute, attributes, message, nest, of_kinds

_LIBRARY = "libnftables.so.1"
_JSON, _NUMERIC_PROTOCOL = 1 << 4, 1 << 7
# The library tells its reason in words only; these are the kernel's, as strerror(3) spells them.
_REASONS = {
    "No such file or directory": errno.ENOENT,
    "File exists": errno.EEXIST,
    "Operation not permitted": errno.EPERM,
    "Operation not supported": errno.EOPNOTSUPP,
    "Device or resource busy": errno.EBUSY,
}
# linux/netfilter/nfnetlink.h, nf_tables.h: the subsystem in the upper byte, DELTABLE, DELCHAIN, DELRULE in the lower.
NETFILTER, _GROUP_NFTABLES = 12, 7
# Several messages may come as one datagram, known by the first: a new chain's may begin with NEWTABLE.
_NEWTABLE, _NEWCHAIN, _DELTABLE, _DELCHAIN, _DELRULE = 0x0A00, 0x0A03, 0x0A02, 0x0A05, 0x0A08
_DELETED = (_DELTABLE, _DELCHAIN, _DELRULE)
_HEARD = (_NEWTABLE, _NEWCHAIN, *_DELETED)
_TABLE_NAME, _RULE_CHAIN, _CHAIN_HOOK, _HOOK_NUMBER, _FORWARD = 1, 2, 4, 1, 2
_RULE_HANDLE, _RULE_NOTES, _COMMENT = 3, 7, b"\0"  # notes are triplets: kind, length, text
_NFGENMSG = struct.Struct("!BBH")  # family, version, resource
_SUBSYSTEM = 10
_BATCH = (0x10, 0x11)  # begin, end
# What a kernel without the netlink family, nfnetlink or nf_tables answers.
_GETGEN, _NO_SUCH_PART = 0x0A10, (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
_GETTABLE, _GETRULE, _GETSETELEM = 0x0A01, 0x0A07, 0x0A0D
_NEWSETELEM, _DELSETELEM, _F_CREATE = 0x0A0C, 0x0A0E, 0x400
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS, _ELEM_KEY_END, _DATA_VALUE = 1, 2, 3, 10, 1
_INTERVAL_END = attribute(_ELEM_FLAGS, (1).to_bytes(4, "big"))
_FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
_IFNAMSIZ = 16
_LARGEST_INTEGER = 16  # bytes; those of a payload that is compared as it comes


Elements = Mapping[tuple[str, ...], str]


class NftablesMissing(OSError):
    """This machine has no nftables."""


class LibraryMissing(NftablesMissing):
    """libnftables is not installed."""

    def __init__(self) -> None:
        super().__init__(
            errno.ENOSYS,
            f"{_LIBRARY} is not installed (Debian, Ubuntu: apt install libnftables1; Fedora: dnf install "
            "nftables-libs; Alpine: apk add nftables)",
        )


class KernelPartMissing(NftablesMissing):
    """The kernel has no nf_tables: a machine that has the legacy iptables only."""

    def __init__(self) -> None:
        super().__init__(
            errno.EPROTONOSUPPORT,
            "this kernel has no nf_tables (CONFIG_NF_TABLES, module nf_tables), which published ports and isolation "
            "are made of; the legacy iptables alone will not do; containers with --network none or host need none",
        )


class Nftables:
    """A handle on the rules of the network namespace in which the calling thread stood when it was made.

    Not thread-safe: one call at a time, from any thread.
    """

    def __init__(self) -> None:
        self._library = _load()
        _require_kernel_part()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.ENOMEM, "nft_ctx_new failed")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON | _NUMERIC_PROTOCOL)

    def close(self) -> None:
        """Free the handle; a second call does nothing."""
        context, self._context = self._context, None
        if context:
            self._library.nft_ctx_free(context)

    def run(self, commands: str) -> str:
        """Carry out `commands` (nft(8) syntax) as one transaction; what they print.

        Raises OSError with the kernel's errno where the library's words tell it, else EINVAL.
        """
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise _failure(complaint.decode(errors="replace"))
        return output.decode()

    def table(self, name: str, family: str = "inet") -> list[dict[str, Any]] | None:
        """The objects of a table (libnftables-json(5)), or None if there is none."""
        try:
            answer = json.loads(self.run(f"list table {family} {name}"))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        objects: list[dict[str, Any]] = answer["nftables"]
        return objects

    def forward_chains(self, further: str, *, besides: str = "") -> list[dict[str, Any]]:
        """All base chains at the hook forward with their rules, and the chain `further` of their tables if there.

        Not those of the table `besides`, and rules of the legacy iptables are not seen.
        """
        listed = json.loads(self.run("list chains"))["nftables"]
        chains = [item["chain"] for item in listed if "chain" in item and item["chain"]["table"] != besides]
        bases = [chain for chain in chains if chain.get("hook") == "forward"]
        tables = {(chain["family"], chain["table"]) for chain in bases}
        others = [chain for chain in chains if chain["name"] == further and (chain["family"], chain["table"]) in tables]
        return [item for chain in (*bases, *others) for item in self._chain(chain)]

    def _chain(self, chain: Mapping[str, str]) -> list[dict[str, Any]]:
        try:
            answer = json.loads(self.run(f"list chain {chain['family']} {chain['table']} {chain['name']}"))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        objects: list[dict[str, Any]] = answer["nftables"]
        return objects


def transaction(requests: Sequence[bytes]) -> tuple[bytes, ...]:
    """`requests` framed for one `Netlink(NETFILTER).request`: the kernel carries out all or none."""
    begin, end = (
        message(kind, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM), acknowledged=False) for kind in _BATCH
    )
    return (begin, *requests, end)


def change_elements(
    family: str,
    table: str,
    collection: str,
    types: tuple[str, str],
    entries: Elements,
    *,
    delete: bool,
    interval: bool = False,
) -> bytes:
    """Add elements to a map or set, or delete them from it.

    `types` are those of keys and values ("" in a set) as nft(8) spells them, " . " between the parts
    of a concatenation; `entries` are keys in parts, with their values likewise joined. In a set with
    the flag `interval` an address is that of a network, with its prefix length. Adding what is there
    is no error (with another value it is EEXIST or EBUSY); deleting what is not is ENOENT.
    """
    key_type, value_type = types[0], "" if delete else types[1]
    if interval:
        listed = b"".join(_interval(key_type, key) for key in entries)
    else:
        listed = b"".join(_element(key_type, key, value_type, value) for key, value in entries.items())
    body = _collection(family, table, collection) + nest(_LIST_ELEMENTS, listed)
    return message(_DELSETELEM, 0, body) if delete else message(_NEWSETELEM, _F_CREATE, body)


def table_names(kernel: Netlink, family: str) -> list[str]:
    """The tables of a family. `kernel` is a netfilter socket."""
    found = kernel.dump(_GETTABLE, _NFGENMSG.pack(_FAMILIES[family], 0, 0))
    return [_text(attributes(body[_NFGENMSG.size :]).get(_TABLE_NAME, b"")) for body in found]


def has_element(kernel: Netlink, family: str, table: str, collection: str, key_type: str, key: Sequence[str]) -> bool:
    """Whether a map or set holds a key, as `change_elements` spells it; False when there is no such map."""
    listed = nest(_LIST_ELEM, nest(_ELEM_KEY, attribute(_DATA_VALUE, _packed(key_type, key))))
    body = _collection(family, table, collection) + nest(_LIST_ELEMENTS, listed)
    try:
        kernel.request(message(_GETSETELEM, 0, body))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def has_key_ending(
    kernel: Netlink, family: str, table: str, collection: str, key_type: str, key: Sequence[str]
) -> bool:
    """Whether a map or set holds a key of several parts that ends in these; False when there is no such map."""
    wanted = _packed(key_type, key)
    try:
        answers = kernel.dump(_GETSETELEM, _collection(family, table, collection))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    lists = (attributes(body[_NFGENMSG.size :]).get(_LIST_ELEMENTS, b"") for body in answers)
    return any(found.endswith(wanted) for listed in lists for found in _keys(listed))


def rule_handles(kernel: Netlink, family: str, table: str, chain: str, comments: Collection[str]) -> list[int]:
    """The handles of a chain's rules that have one of these comments; none when there is no such chain."""
    asked = _NFGENMSG.pack(_FAMILIES[family], 0, 0) + _name(_TABLE_NAME, table) + _name(_RULE_CHAIN, chain)
    wanted = [comment.encode() + b"\0" for comment in comments]
    try:
        rules = kernel.dump(_GETRULE, asked)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        raise
    # Among hundreds: what has not even the letters is not read.
    near = [attributes(body[_NFGENMSG.size :]) for body in rules if any(comment in body for comment in wanted)]
    ours = [found for found in near if _comment(found) in comments]
    return [int.from_bytes(found[_RULE_HANDLE], "big") for found in ours]


def _comment(rule: Mapping[int, bytes]) -> str:
    notes = rule.get(_RULE_NOTES, b"")
    return _text(notes[2 : 2 + notes[1]]) if notes.startswith(_COMMENT) else ""


def _keys(listed: bytes) -> Iterator[bytes]:
    """The keys in a list of elements, which are attributes of one kind."""
    offset = 0
    while offset + 4 <= len(listed):
        length = int.from_bytes(listed[offset : offset + 2], sys.byteorder)
        if length < 4:
            return
        element = attributes(listed[offset + 4 : offset + length])
        yield attributes(element.get(_ELEM_KEY, b"")).get(_DATA_VALUE, b"")
        offset += (length + 3) & ~3


def _collection(family: str, table: str, collection: str) -> bytes:
    names = _name(_LIST_TABLE, table) + _name(_LIST_SET, collection)
    return _NFGENMSG.pack(_FAMILIES[family], 0, 0) + names


def _element(key_type: str, key: Sequence[str], value_type: str, value: str) -> bytes:
    element = nest(_ELEM_KEY, attribute(_DATA_VALUE, _packed(key_type, key)))
    if value_type:
        element += nest(_ELEM_DATA, attribute(_DATA_VALUE, _packed(value_type, value.split(" . "))))
    return nest(_LIST_ELEM, element)


def _interval(key_type: str, key: Sequence[str]) -> bytes:
    """An element of a set with the flag `interval`: of a concatenation one with two keys, of one part two elements."""
    bounds = [_bounds(part) for part in key]
    first, last = (_packed(key_type, [each[end] for each in bounds]) for end in (0, 1))
    if len(key) > 1:
        return nest(
            _LIST_ELEM,
            nest(_ELEM_KEY, attribute(_DATA_VALUE, first)) + nest(_ELEM_KEY_END, attribute(_DATA_VALUE, last)),
        )
    begin = nest(_LIST_ELEM, nest(_ELEM_KEY, attribute(_DATA_VALUE, first)))
    after = int.from_bytes(last, "big") + 1
    if after >> 8 * len(last):
        return begin  # up to the last address there is
    beyond = attribute(_DATA_VALUE, after.to_bytes(len(last), "big"))
    return begin + nest(_LIST_ELEM, nest(_ELEM_KEY, beyond) + _INTERVAL_END)


def _bounds(part: str) -> tuple[str, str]:
    """The first and the last address of a network; what is none is both."""
    if "/" not in part:
        return part, part
    network = ip_network(part)
    return str(network[0]), str(network[-1])


def _packed(kinds: str, parts: Sequence[str]) -> bytes:
    """A key or value as the kernel holds it: the parts of a concatenation each fill whole 32-bit registers."""
    packed = [_PACKERS[kind](part) for kind, part in zip(kinds.split(" . "), parts, strict=True)]
    return packed[0] if len(packed) == 1 else b"".join(part + bytes(-len(part) % 4) for part in packed)


_PACKERS: Mapping[str, Callable[[str], bytes]] = {
    "ipv4_addr": lambda text: socket.inet_pton(socket.AF_INET, text),
    "ipv6_addr": lambda text: IPv6Address(text).packed,
    "integer": lambda text: int(text, 16).to_bytes(_LARGEST_INTEGER, "big"),
    "ether_addr": lambda text: bytes.fromhex(text.replace(":", "")),
    "ifname": lambda text: text.encode().ljust(_IFNAMSIZ, b"\0"),
    "inet_proto": lambda text: int(text).to_bytes(1, "big"),
    "inet_service": lambda text: int(text).to_bytes(2, "big"),
}


def deletions() -> Deletions:
    """News of deleted tables, chains and rules, and of new chains; see `Interest`. Elements come and go unheard."""
    return Deletions(NETFILTER, _GROUP_NFTABLES, of_kinds(_HEARD))


class Interest:
    """Which messages of `deletions` concern the owner of a table, who has rules in chains of others, too.

    A host has many others who change theirs: what is none of his is told apart by its first bytes.
    """

    def __init__(self, table: str, chains: Collection[tuple[str, str]], is_wanted: Callable[[str], bool]) -> None:
        """`chains` are the others' (table, chain); of a rule deleted there `is_wanted` tells by its comment."""
        self._own = _name(_TABLE_NAME, table)
        self._others = tuple(_name(_TABLE_NAME, other) + _name(_RULE_CHAIN, chain) for other, chain in chains)
        self._is_wanted = is_wanted

    def concerns(self, kind: int, body: bytes) -> bool:
        """Deleted: his table, or of it; a chain or a wanted rule of the others'. New: another's forward chain."""
        is_own = body.startswith(self._own, _NFGENMSG.size)
        if kind in _DELETED:
            return is_own or self._is_taken_from_another(kind, body)
        return kind == _NEWCHAIN and not is_own and _forwards(body)

    def _is_taken_from_another(self, kind: int, body: bytes) -> bool:
        if kind != _DELRULE or not body.startswith(self._others, _NFGENMSG.size):
            return False
        return self._is_wanted(_comment(attributes(body[_NFGENMSG.size :])))


def _forwards(body: bytes) -> bool:
    hook = attributes(attributes(body[_NFGENMSG.size :]).get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER, b"")
    return int.from_bytes(hook, "big") == _FORWARD if hook else False


def _name(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _require_kernel_part() -> None:
    try:
        with Netlink(NETFILTER) as kernel:
            kernel.request(message(_GETGEN, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)))
    except OSError as error:
        if error.errno in _NO_SUCH_PART:
            raise KernelPartMissing from error
        raise


def connected() -> Netlink | None:
    """A socket to nf_tables in the calling thread's network namespace, None where the kernel has none. OSError."""
    try:
        return Netlink(NETFILTER)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return None
        raise


def _failure(complaint: str) -> OSError:
    first = complaint.strip().partition("\n")[0]
    reason = next((number for words, number in _REASONS.items() if first.endswith(words)), errno.EINVAL)
    return OSError(reason, f"nftables: {first.removeprefix('Error: ')}")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise LibraryMissing from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype = pointer
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [pointer, text]
    for call in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, call).argtypes = [pointer]
    for call in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, call).argtypes = [pointer]
        getattr(library, call).restype = text
    return library
