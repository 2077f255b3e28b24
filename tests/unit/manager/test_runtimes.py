"""Which runtime a name means."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.config import ManagerConfig, RuntimeConfig
from bulkhead.manager.runtimes import configured


def installed(*names: str) -> dict[str, str]:
    return {name: f"/usr/bin/{name}" for name in names}


def test_without_runc_its_names_mean_our_own() -> None:
    known = configured(ManagerConfig(), installed().get)
    assert {name: known.command(name) for name in ("", "bulkhead", "runc", "io.containerd.runc.v2")} == dict.fromkeys(
        ("", "bulkhead", "runc", "io.containerd.runc.v2"), ()
    )
    assert known.chosen("") == "bulkhead"
    with pytest.raises(InvalidArgument, match=r"^Unknown runtime specified crun$"):
        known.chosen("crun")


def test_what_is_installed_is_known_and_what_is_configured_wins() -> None:
    told = {"runc": RuntimeConfig(path="/opt/runc", args=["--debug"]), "sand": RuntimeConfig(path="runsc")}
    known = configured(ManagerConfig(runtimes=told, default_runtime="sand"), installed("runc", "crun", "runsc").get)
    assert known.command("runc") == known.command("io.containerd.runc.v2") == ("/opt/runc", "--debug")
    assert known.command("crun") == ("/usr/bin/crun",)
    assert (known.chosen(""), known.command("")) == ("sand", ("/usr/bin/runsc",))
    assert known.programs()["bulkhead"] == "bulkhead-runtime"


@pytest.mark.parametrize(
    "config",
    [
        ManagerConfig(default_runtime="nowhere"),
        ManagerConfig(runtimes={"bulkhead": RuntimeConfig(path="/bin/true")}),
        ManagerConfig(runtimes={"x": RuntimeConfig(path="")}),
        ManagerConfig(runtimes={"x": RuntimeConfig(path="some/where")}),
    ],
)
def test_a_wrong_table_is_refused(config: ManagerConfig) -> None:
    with pytest.raises(InvalidArgument):
        configured(config, installed().get)
