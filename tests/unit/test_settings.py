"""What an installation may be told, and how each mistake is answered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bulkhead import settings
from bulkhead.errors import InvalidArgument
from bulkhead.model.instance import LONGEST_RUN_PATH, Instance


class Sample(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A service's table, as a service would declare it."""

    workers: int = 4
    mirrors: list[str] = []


class Lax(msgspec.Struct):
    workers: int = 4


def write(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def test_defaults_stand_without_a_file() -> None:
    """An installation needs no configuration at all."""
    assert settings.load({}).instance == Instance()
    assert settings.load({}).table("manager", Sample) == Sample()


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Two instances share a file and differ by environment alone."""
    path = write(tmp_path, '[engine]\nrun = "/run/one"\nbridge = "br1"\nsubnet = "10.9.0.0/24"\n')
    told = settings.load({"BULKHEAD_CONFIG": str(path), "BULKHEAD_RUN": "/run/two"})
    assert told.instance == Instance(run=Path("/run/two"), bridge="br1", subnet="10.9.0.0/24")


def test_a_flag_wins_over_the_variable(tmp_path: Path) -> None:
    path = write(tmp_path, '[engine]\nrun = "/run/flag"\n')
    assert settings.load({"BULKHEAD_CONFIG": "/nowhere"}, path).instance.run == Path("/run/flag")


def test_the_environment_handed_on_gives_the_same_installation(tmp_path: Path) -> None:
    """Daemons are started with it: what they see must be what the operator's command saw."""
    path = write(tmp_path, '[engine]\ndata = "/var/tmp/x"\n')
    told = settings.load({"BULKHEAD_REGISTRY": "localhost:5001"}, path)
    again = settings.load(settings.environment(told.instance, told.path))
    assert (again.instance, again.path) == (told.instance, told.path)


def test_a_table_is_read_by_its_owner(tmp_path: Path) -> None:
    told = settings.load({}, write(tmp_path, '[manager]\nworkers = 2\nmirrors = ["a:1"]\n'))
    assert told.table("manager", Sample) == Sample(workers=2, mirrors=["a:1"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[manger]\n", "manger"),
        ("run = 1\n", "run"),
        ("[engine]\nrunn = '/run/x'\n", "runn"),
        ("[engine]\nrun = 5\n", "run"),
        ("[manager]\nworkers = '2'\n", "workers"),
        ("[manager]\nworker = 2\n", "worker"),
        ("[manager]\nmirrors = [1]\n", "mirrors"),
        ("[engine\n", "line 1"),
    ],
)
def test_a_mistake_names_the_key_and_the_file(tmp_path: Path, text: str, named: str) -> None:
    """A misspelt key must not silently leave a default in force."""
    path = write(tmp_path, text)
    with pytest.raises(InvalidArgument) as refused:
        settings.load({}, path).table("manager", Sample)
    assert named in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BULKHEAD_RUN", "relative/path"),
        ("BULKHEAD_RUN", "/"),
        ("BULKHEAD_RUN", "/run"),
        ("BULKHEAD_RUN", "/run/../etc"),
        ("BULKHEAD_RUN", "/run/" + "x" * LONGEST_RUN_PATH),
        ("BULKHEAD_RUN", "/run/a\nb"),
        ("BULKHEAD_DATA", "/var"),
        ("BULKHEAD_DATA", "/run/bulkhead"),
        ("BULKHEAD_REGISTRY", "127.0.0.1"),
        ("BULKHEAD_REGISTRY", "http://localhost:5000"),
        ("BULKHEAD_REGISTRY", "localhost:0"),
        ("BULKHEAD_REGISTRY", "localhost:65536"),
        ("BULKHEAD_BRIDGE", "sixteen-letters-"),
        ("BULKHEAD_BRIDGE", "a/b"),
        ("BULKHEAD_BRIDGE", ".."),
        ("BULKHEAD_SUBNET", "172.30.0.1/16"),
        ("BULKHEAD_SUBNET", "172.30.0.0/30"),
        ("BULKHEAD_SUBNET", "0.0.0.0/0"),
        ("BULKHEAD_SUBNET", "fd00::/64"),
        ("BULKHEAD_SUBNET", "nonsense"),
        ("BULKHEAD_SUBNET6", "10.0.0.0/24"),
        ("BULKHEAD_SUBNET6", "fd00::/126"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(variable: str, value: str) -> None:
    """Found now, with the name of the key, and not later as an errno of the kernel."""
    with pytest.raises(InvalidArgument, match=variable):
        settings.load({variable: value})


def test_the_longest_run_path_is_accepted() -> None:
    path = "/run/" + "x" * (LONGEST_RUN_PATH - 5)
    assert str(settings.load({"BULKHEAD_RUN": path}).instance.run) == path


@pytest.mark.parametrize("registry", ["127.0.0.1:5000", "registry.example:443", "[::1]:5000"])
def test_registries_that_are_host_and_port(registry: str) -> None:
    assert settings.load({"BULKHEAD_REGISTRY": registry}).instance.registry == registry


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such file"):
        settings.load({"BULKHEAD_CONFIG": str(tmp_path / "absent")})


def test_a_type_that_would_accept_anything_is_a_bug(tmp_path: Path) -> None:
    """The rule that unknown keys are errors holds for services that forget it."""
    with pytest.raises(TypeError, match="forbid_unknown_fields"):
        settings.load({}).table("manager", Lax)
