"""The directory that a shim is given: files, log options, volumes, cgroup."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager.bundles import Bundles, hostname
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.index import Index
from bulkhead.manager.log_options import log_options
from bulkhead.manager.ports import OverlayDirs
from bulkhead.manager.sharing import Namespaces
from bulkhead.model.container import Container, ContainerSpec, LogConfig, Mount, NetworkEndpoint
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase

DIRS = OverlayDirs(lower=("/l",), upper="/u", work="/w")


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    instance = Instance(run=tmp_path / "run", data=tmp_path / "data")
    return Bundles(instance=instance, config=ManagerConfig(), index=Index())


def _container(**spec: Any) -> Container:
    return Container(id="ab" * 32, name="web", image_id="sha256:1", path="sh", spec=ContainerSpec(**spec))


def test_bundle_on_disk(bundles: Bundles) -> None:
    bundle = bundles.write(_container(open_stdin=True, auto_remove=True), Namespaces(), DIRS, {})
    assert (bundle.open_stdin, bundle.stdin_once, bundle.volatile) == (True, False, True)
    assert bundle.directory.stat().st_mode & 0o777 == 0o700
    config = json.loads((bundle.directory / "config.json").read_bytes())
    assert config["linux"]["cgroupsPath"].endswith(f"/{'ab' * 32}")
    assert (bundle.directory / "hostname").read_text() == "abababababab\n"
    assert "127.0.0.1\tlocalhost" in (bundle.directory / "hosts").read_text()
    assert (bundle.directory / "resolv.conf").read_text().startswith("nameserver ")


def test_own_address_is_written_into_the_same_file(bundles: Bundles) -> None:
    """The file is bound into the container already: its inode must stay."""
    container = _container(hostname="box", domainname="lan", extra_hosts=("a:1.2.3.4", "up:host-gateway"))
    place = bundles.write(container, Namespaces(), DIRS, {}).directory / "hosts"
    assert "1.2.3.4\ta" in place.read_text()
    before = place.stat().st_ino
    bundles.name_addresses(container, [NetworkEndpoint(address="10.0.0.5", gateway="10.0.0.1")])
    assert place.stat().st_ino == before
    assert "10.0.0.5\tbox.lan box\n" in place.read_text()
    assert "10.0.0.1\tup\n" in place.read_text()


def test_a_linked_container_learns_of_a_new_address(bundles: Bundles) -> None:
    """In the file that it has bound, among what it wrote there itself."""
    child = Container(id="cd" * 32, name="db", image_id="sha256:1", path="sh", spec=ContainerSpec())
    parent = replace(_container(links=(f"{child.id}:store",)), phase=Phase.RUNNING)
    place = bundles.write(parent, Namespaces(), DIRS, {}).directory / "hosts"
    place.write_bytes(b"1.2.3.4\tmine\xff\n10.0.0.99\tstore db\n10.0.0.98\tstored\n10.0.0.5\tbox\n")
    bundles.write(child, Namespaces(), DIRS, {})
    bundles.index.put(child)
    bundles.index.put(parent)
    before = place.stat().st_ino
    bundles.name_addresses(child, [NetworkEndpoint(network_name="bridge", address="10.0.0.7")])
    assert place.read_bytes() == b"1.2.3.4\tmine\xff\n10.0.0.7\tstore db\n10.0.0.98\tstored\n10.0.0.5\tbox\n"
    assert place.stat().st_ino == before


def test_hosts_blown_up_by_a_linked_container_are_left_alone(bundles: Bundles) -> None:
    child = Container(id="cd" * 32, name="db", image_id="sha256:1", path="sh", spec=ContainerSpec())
    parent = replace(_container(links=(f"{child.id}:store",)), phase=Phase.RUNNING)
    place = bundles.write(parent, Namespaces(), DIRS, {}).directory / "hosts"
    place.write_bytes(blown_up := b"10.0.0.99\tstore\n" + bytes(2 << 20))
    bundles.write(child, Namespaces(), DIRS, {})
    bundles.index.put(child)
    bundles.index.put(parent)
    bundles.name_addresses(child, [NetworkEndpoint(network_name="bridge", address="10.0.0.7")])
    assert place.read_bytes() == blown_up


def test_network_of_the_host_has_the_hosts_files(bundles: Bundles) -> None:
    container = _container(network_mode="host", extra_hosts=("a:1.2.3.4",))
    place = bundles.write(container, Namespaces(network=None), DIRS, {}).directory
    assert (place / "hosts").read_text().startswith(Path("/etc/hosts").read_text())
    assert (place / "hosts").read_text().endswith("1.2.3.4\ta\n")
    assert (place / "hostname").read_text() == f"{socket.gethostname()}\n"
    assert hostname(container) == socket.gethostname()


def test_shared_network_shares_the_files(bundles: Bundles) -> None:
    owner = Container(id="cd" * 32, name="owner", image_id="sha256:1", path="sh", spec=ContainerSpec())
    bundles.index.put(owner)
    place = bundles.write(_container(network_mode="container:owner"), Namespaces(), DIRS, {}).directory
    mounts = {each["destination"]: each for each in json.loads((place / "config.json").read_bytes())["mounts"]}
    assert mounts["/etc/hosts"]["source"] == str(bundles.instance.container_data(owner.id) / "hosts")


@pytest.mark.parametrize(
    ("told", "driver", "size", "files"),
    [
        (LogConfig(), "json-file", 20 << 20, 3),
        (LogConfig(driver="local"), "local", 20 << 20, 5),
        (LogConfig(driver="json-file", options={"max-size": "10k", "max-file": "5"}), "json-file", 10 << 10, 5),
        (LogConfig(driver="json-file", options={"max-size": "-1"}), "json-file", 0, 3),
        (LogConfig(options={"max-size": "1gb"}), "json-file", 1 << 30, 3),
    ],
)
def test_log_options(bundles: Bundles, told: LogConfig, driver: str, size: int, files: int) -> None:
    options = log_options(bundles.instance, bundles.config, _container(log_config=told))
    assert (options.driver, options.max_size, options.max_file) == (driver, size, files)
    assert options.path.endswith("local.log" if driver == "local" else "-json.log")


@pytest.mark.parametrize(
    "options",
    [
        {"max-size": "x"},
        {"max-file": "0"},
        {"max-file": "x"},
        {"compress": "true", "max-file": "1"},
        {"compress": "perhaps"},
        {"tag": "{{.Nothing}}"},
        {"labels-regex": "("},
    ],
)
def test_bad_log_options(bundles: Bundles, options: dict[str, str]) -> None:
    with pytest.raises(Internal, match="failed to initialize logging driver: "):
        log_options(bundles.instance, bundles.config, _container(log_config=LogConfig(options=options)))


def test_lines_bear_what_the_options_name(bundles: Bundles) -> None:
    options = {"tag": "{{.Name}}/{{ .ID }}", "labels": "a,absent", "env-regex": "^P"}
    told = LogConfig(driver="json-file", options=options)
    made = _container(log_config=told, labels={"a": "1", "b": "2"}, env=("PATH=/bin", "X=y"))
    attributes = json.loads(log_options(bundles.instance, bundles.config, made).attributes)
    assert attributes == {"a": "1", "PATH": "/bin", "tag": f"{made.name}/{made.id[:12]}"}


def test_without_journald_there_is_no_such_driver(bundles: Bundles) -> None:
    with pytest.raises(Internal, match="journald is not enabled on this host"):
        log_options(
            bundles.instance,
            ManagerConfig(journald_socket="/nosuch"),
            _container(log_config=LogConfig(driver="journald")),
        )


def test_cgroup_parent(bundles: Bundles) -> None:
    assert bundles.cgroups_path(_container(cgroup_parent="/my/parent")) == f"/my/parent/{'ab' * 32}"
    for bad in ("/", "../x", "a/../../b", "./a"):
        with pytest.raises(InvalidArgument, match="invalid cgroup parent"):
            bundles.cgroups_path(_container(cgroup_parent=bad))


def test_sources_are_made_or_refused(bundles: Bundles, tmp_path: Path) -> None:
    mounts = (
        Mount(type="volume", source="vol", target="/v"),
        Mount(type="bind", source=str(tmp_path / "new"), target="/b", create_source=True),
    )
    place = bundles.write(_container(mounts=mounts), Namespaces(), DIRS, {"/v": "/somewhere"}).directory
    assert (tmp_path / "new").is_dir()
    shown = {each["destination"]: each for each in json.loads((place / "config.json").read_bytes())["mounts"]}
    assert shown["/v"]["source"] == "/somewhere"
    missing = Mount(type="bind", source=str(tmp_path / "nosuch"), target="/b")
    with pytest.raises(InvalidArgument, match="bind source path does not exist"):
        bundles.write(_container(mounts=(missing,)), Namespaces(), DIRS, {})


def test_addresses_that_are_known_before_are_in_the_bundle(bundles: Bundles) -> None:
    # As if they were named later, to the container and to who is linked to it.
    endpoints = [NetworkEndpoint(network_name="bridge", address="10.0.0.7", gateway="10.0.0.1")]
    child = Container(
        id="cd" * 32, name="db", image_id="sha256:1", path="sh", spec=ContainerSpec(extra_hosts=("up:host-gateway",))
    )
    parent = replace(_container(links=(f"{child.id}:store",)), phase=Phase.RUNNING)
    linked = bundles.write(parent, Namespaces(), DIRS, {}).directory / "hosts"
    linked.write_bytes(b"10.0.0.99\tstore db\n")
    for each in (child, parent):
        bundles.index.put(each)
    place = bundles.write(child, Namespaces(), DIRS, {}, endpoints=endpoints).directory / "hosts"
    at_once = place.read_text()
    assert "10.0.0.7\tcdcdcdcdcdcd\n" in at_once
    assert "10.0.0.1\tup\n" in at_once
    assert linked.read_bytes() == b"10.0.0.7\tstore db\n"
    bundles.write(child, Namespaces(), DIRS, {})
    bundles.name_addresses(child, endpoints)
    assert place.read_text() == at_once
