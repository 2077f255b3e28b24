"""`-v`, `--mount` and `--tmpfs`, and the texts people search the web for."""

from __future__ import annotations

import re

import pytest

from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.mounts import parse_bind, parse_mounts
from bulkhead.api.versions import Version
from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Mount

NON_RECURSIVE = wire.BindSettings(ReadOnlyNonRecursive=True)
FORCED = wire.BindSettings(ReadOnlyForceRecursive=True)
BOTH = wire.BindSettings(ReadOnlyNonRecursive=True, ReadOnlyForceRecursive=True)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount(type="bind", source="/a", target="/b", create_source=True)),
        ("/a/../c/:/b/", Mount(type="bind", source="/c", target="/b", create_source=True)),
        ("/a:/b:ro", Mount(type="bind", source="/a", target="/b", read_only=True, create_source=True)),
        (
            "/a:/b:ro,rslave,z",
            Mount(type="bind", source="/a", target="/b", read_only=True, propagation="rslave", create_source=True),
        ),
        ("vol:/b", Mount(type="volume", source="vol", target="/b")),
        ("vol:/b:nocopy", Mount(type="volume", source="vol", target="/b", no_copy=True)),
    ],
)
def test_binds_are_read(text: str, mount: Mount) -> None:
    assert parse_bind(text) == mount


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/b", "invalid volume specification: '/b'"),
        (":/b", "invalid volume specification: ':/b'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        (
            "/a:b",
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' "
            "mount path must be absolute",
        ),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b:foo", "invalid mode: foo"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        (
            "./a:/b",
            'create ./a: "./a" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path",
        ),
        ("a:/b", "create a: volume name is too short, names should be at least two alphanumeric characters"),
    ],
)
def test_bad_binds_have_dockers_texts(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        parse_bind(text)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (wire.Mount(Type="foo", Target="/x"), 'invalid mount config for type "foo": mount type unknown'),
        (wire.Mount(Type="bind", Source="/x"), 'invalid mount config for type "bind": field Target must not be empty'),
        (wire.Mount(Type="bind", Target="/x"), "field Source must not be empty"),
        (wire.Mount(Type="tmpfs", Target="/x", Source="/y"), "field Source must not be specified"),
        (wire.Mount(Type="bind", Source="/gone", Target="/x"), "bind source path does not exist: /gone"),
        (
            wire.Mount(Type="bind", Source="/there", Target="/x", TmpfsOptions=wire.TmpfsSettings()),
            "field TmpfsOptions must not be specified",
        ),
        (
            wire.Mount(Type="bind", Source="/there", Target="/x", BindOptions=NON_RECURSIVE),
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            wire.Mount(Type="bind", Source="/there", Target="/x", ReadOnly=True, BindOptions=BOTH),
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        (wire.Mount(Type="volume", Source="../x", Target="/x"), "includes invalid characters"),
    ],
)
def test_bad_mounts_have_dockers_texts(mount: wire.Mount, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        parse_mounts(wire.HostConfig(Mounts=[mount]), {"/there"}.__contains__)


def test_missing_sources_are_made_only_where_the_client_said_so() -> None:
    wanted = wire.Mount(Type="bind", Source="/gone", Target="/x", BindOptions=wire.BindSettings(CreateMountpoint=True))
    (mount,) = parse_mounts(wire.HostConfig(Mounts=[wanted]), lambda path: False)
    assert mount.create_source


@pytest.mark.parametrize(("version", "below"), [(Version(1, 43), True), (Version(1, 44), False)])
def test_what_is_below_a_read_only_bind_is_writable_for_old_clients(version: Version, below: bool) -> None:
    mount = wire.Mount(Type="bind", Source="/s", Target="/m", ReadOnly=True)
    config = wire.HostConfig(Binds=["/s:/ro:ro", "/s:/rw"], Mounts=[mount])
    found = {mount.target: mount.writable_below for mount in parse_mounts(config, version=version)}
    assert found == {"/ro": below, "/rw": False, "/m": below}


def test_what_is_below_a_read_only_bind_is_writable_where_asked() -> None:
    mount = wire.Mount(Type="bind", Source="/s", Target="/m", ReadOnly=True, BindOptions=NON_RECURSIVE)
    assert [each.writable_below for each in parse_mounts(wire.HostConfig(Mounts=[mount]))] == [True]


def test_an_old_client_s_demand_for_read_only_below_is_refused() -> None:
    mount = wire.Mount(Type="bind", Source="/s", Target="/m", ReadOnly=True, BindOptions=FORCED)
    with pytest.raises(InvalidArgument, match=r"^BindOptions\.ReadOnlyForceRecursive needs API v1\.44 or newer$"):
        parse_mounts(wire.HostConfig(Mounts=[mount]), version=Version(1, 43))


def test_two_mounts_on_one_target_are_refused() -> None:
    config = wire.HostConfig(Binds=["/a:/x"], Tmpfs={"/x/": ""})
    with pytest.raises(InvalidArgument, match=r"^Duplicate mount point: /x$"):
        parse_mounts(config)


def test_tmpfs_options_are_kept_as_written() -> None:
    (mount,) = parse_mounts(wire.HostConfig(Tmpfs={"/run": "size=1m,mode=1777"}))
    assert (mount.type, mount.target, mount.options) == ("tmpfs", "/run", ("size=1m", "mode=1777"))
