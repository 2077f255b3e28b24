"""A spec becomes an OCI config with Docker's defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager import oci
from bulkhead.manager.oci import Surroundings
from bulkhead.manager.seccomp_profiles import oci_profile
from bulkhead.manager.sharing import Namespaces
from bulkhead.model.container import Container, ContainerSpec, DeviceMapping, Mount, Resources, Ulimit
from bulkhead.model.remapping import IdRange, Remapping
from bulkhead.runtime import defaults, validate
from bulkhead.runtime.rootfs import OverlayRootfs

IDS = Remapping(
    uids=(IdRange(inside=0, outside=100000, count=10), IdRange(inside=10, outside=300000, count=5)),
    gids=(IdRange(inside=0, outside=200000, count=65536),),
)


def _config(
    namespaces: Namespaces | None = None,
    around: dict[str, Any] | None = None,
    remapping: Remapping | None = None,
    **spec: Any,
) -> dict[str, Any]:
    container = Container(
        id="ab" * 32,
        name="web",
        image_id="sha256:1",
        path="sh",
        args=("-c", "true"),
        spec=ContainerSpec(**spec),
        remapping=remapping,
    )
    surroundings = Surroundings(
        namespaces=namespaces or Namespaces(),
        cgroups_path="/bulkhead/x",
        hostname="box",
        engine_files={"/etc/hosts": "/d/hosts"},
        **(around or {}),
    )
    made = oci.config(container, surroundings)
    assert json.loads(json.dumps(made)) == made
    validate.container(container.id, made, OverlayRootfs(lower=("/l",), upper="/u", work="/w"))
    return made


def _mount(config: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [mount for mount in config["mounts"] if mount["destination"] == destination]
    return dict(found)


def test_users_of_a_remapped_container() -> None:
    """What is the engine's is shown with the container's ids; a bind, and a volume that is the host's, is not."""
    mounts = [Mount(type=kind, target=target, source="x") for kind, target in (("volume", "/v"), ("volume", "/nfs"))]
    around = {"sources": {"/v": "/data/v", "/nfs": "/data/n", "/b": "/host"}, "own_volumes": frozenset({"/v"})}
    bind = Mount(type="bind", target="/b", source="/host")
    made = _config(Namespaces(user=""), around, IDS, mounts=(*mounts, bind))
    assert {"type": "user"} in made["linux"]["namespaces"]
    assert made["linux"]["uidMappings"] == [
        {"containerID": 0, "hostID": 100000, "size": 10},
        {"containerID": 10, "hostID": 300000, "size": 5},
    ]
    assert made["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 65536}]
    assert made["linux"]["sysctl"] == {"net.ipv4.ip_unprivileged_port_start": "0"}
    shown = [mount["destination"] for mount in made["mounts"] if "idmap" in mount["options"]]
    assert shown == ["/v", "/etc/hosts"]
    plain = _config(Namespaces(), around, None, mounts=(*mounts, bind))
    assert not [mount for mount in plain["mounts"] if "idmap" in mount["options"]]
    assert not {"uidMappings", "gidMappings"} & set(plain["linux"])


def test_a_remapped_container_in_the_user_namespace_of_another() -> None:
    """That one is mapped: two mappings would be one too many."""
    made = _config(Namespaces(user="/proc/7/fd/9"), remapping=IDS)
    assert {"type": "user", "path": "/proc/7/fd/9"} in made["linux"]["namespaces"]
    assert not {"uidMappings", "gidMappings"} & set(made["linux"])
    assert "idmap" in _mount(made, "/etc/hosts")["options"]


def test_plain_container_is_dockers_default() -> None:
    made = _config()
    assert made["process"]["args"] == ["sh", "-c", "true"]
    assert made["process"]["cwd"] == "/"
    assert made["process"]["env"] == [oci.DEFAULT_PATH, "HOSTNAME=box"]
    assert set(made["process"]["capabilities"]["bounding"]) == set(defaults.DEFAULT_CAPABILITIES)
    assert "inheritable" not in made["process"]["capabilities"]
    assert {entry["type"] for entry in made["linux"]["namespaces"]} == {
        "network",
        "pid",
        "ipc",
        "uts",
        "cgroup",
        "mount",
    }
    assert made["linux"]["maskedPaths"] == list(defaults.DEFAULT_MASKED_PATHS)
    assert made["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert made["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert _mount(made, "/etc/hosts")["options"] == ["rbind", "rprivate", "rw"]


@pytest.mark.parametrize(
    ("env", "tty", "expected"),
    [
        ((), True, [oci.DEFAULT_PATH, "HOSTNAME=box", "TERM=xterm"]),
        (("PATH=/x", "A=b"), False, ["PATH=/x", "HOSTNAME=box", "A=b"]),
        (("PATH", "A"), False, ["HOSTNAME=box"]),
        (("A=1", "A=2=3"), False, [oci.DEFAULT_PATH, "HOSTNAME=box", "A=2=3"]),
    ],
)
def test_environment(env: tuple[str, ...], tty: bool, expected: list[str]) -> None:
    assert _config(env=env, tty=tty)["process"]["env"] == expected


def test_privileged() -> None:
    made = _config(privileged=True)
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert "seccomp" not in made["linux"]
    assert "ro" not in _mount(made, "/sys")["options"]
    assert any(node["path"] == "/dev/null" for node in made["linux"]["devices"])


def test_a_privileged_container_has_its_own_devices_beside_the_host_s() -> None:
    other = DeviceMapping(path_on_host="/dev/zero", path_in_container="/dev/mine")
    asked = (other, DeviceMapping(path_on_host="/dev/full"))
    nodes = _config(privileged=True, devices=asked)["linux"]["devices"]
    minors = [(node["path"], node["minor"]) for node in nodes]
    assert ("/dev/mine", 5) in minors and ("/dev/null", 3) in minors and minors.count(("/dev/full", 7)) == 1


def test_host_namespaces_are_left_out_with_what_depends_on_them() -> None:
    made = _config(Namespaces(network=None, uts=None, ipc=None, pid=None, cgroup=None), ipc_mode="host")
    assert made["linux"]["namespaces"] == [{"type": "mount"}]
    assert made["linux"]["sysctl"] == {}
    assert "hostname" not in made
    assert _mount(made, "/dev/shm")["source"] == "/dev/shm"
    assert not [each for each in _config(ipc_mode="none")["mounts"] if each["destination"] == "/dev/shm"]
    with pytest.raises(InvalidArgument, match=r'sysctl "net\.x" not allowed'):
        _config(Namespaces(network=None), sysctls={"net.x": "1"})


def test_joined_namespace_carries_its_path() -> None:
    made = _config(Namespaces(network="/proc/1/fd/3"))
    assert {"type": "network", "path": "/proc/1/fd/3"} in made["linux"]["namespaces"]
    assert "net.ipv4.ping_group_range" not in made["linux"]["sysctl"]


def test_user_mounts_replace_defaults_and_parents_come_first() -> None:
    mounts = (
        Mount(type="bind", source="/s/deep", target="/data/deep/er"),
        Mount(type="bind", source="/s/data", target="/data", read_only=True, propagation="rslave"),
        Mount(type="tmpfs", target="/dev/shm", size_bytes=1024, mode=0o700),
        Mount(type="bind", source="/s/hosts", target="/etc/hosts", non_recursive=True),
    )
    sources = {mount.target: mount.source for mount in mounts if mount.source}
    made = _config(around={"sources": sources}, mounts=mounts)
    order = [mount["destination"] for mount in made["mounts"]]
    assert order.index("/data") < order.index("/data/deep/er")
    assert _mount(made, "/data")["options"] == ["rbind", "ro", "rro", "rslave"]
    assert _mount(made, "/dev/shm")["options"] == ["noexec", "nosuid", "nodev", "size=1024", "mode=700"]
    assert _mount(made, "/etc/hosts") == {
        "destination": "/etc/hosts",
        "type": "bind",
        "source": "/s/hosts",
        "options": ["bind", "rw", "rprivate"],
    }
    assert made["linux"]["rootfsPropagation"] == "rslave"


def test_what_is_below_a_read_only_bind_can_be_left_writable() -> None:
    mount = Mount(type="bind", source="/s", target="/data", read_only=True, writable_below=True)
    made = _config(around={"sources": {"/data": "/s"}}, mounts=(mount,))
    assert _mount(made, "/data")["options"] == ["rbind", "ro", "rprivate"]


def test_tmpfs_options_override_the_defaults() -> None:
    made = _config(mounts=(Mount(type="tmpfs", target="/t", options=("exec,size=64k", "mode=1777")),))
    assert _mount(made, "/t")["options"] == ["nosuid", "nodev", "exec", "size=64k", "mode=1777"]
    with pytest.raises(Internal, match=r'invalid tmpfs option \["foo"\]'):
        _config(mounts=(Mount(type="tmpfs", target="/t", options=("foo",)),))


def test_a_subpath_is_left_to_the_launcher() -> None:
    """The manager's own look at it is over when the container is made: others may have exchanged it by then."""
    volume = Mount(type="volume", source="data", target="v/", subpath="a/b")
    around = {"sources": {"v/": "/volumes/data/_data"}}
    made = _config(around=around, mounts=(volume,), annotations={"org.bulkhead.subpath:/v": ""})
    assert _mount(made, "/v")["source"] == "/volumes/data/_data"
    assert made["annotations"]["org.bulkhead.subpath:/v"] == "a/b"


def test_resources() -> None:
    told = Resources(memory=64 << 20, nano_cpus=1_500_000_000, pids_limit=9, cpu_shares=2, blkio_weight=10)
    assert _config(resources=told)["linux"]["resources"] | {"devices": []} == {
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "cpu": {"period": 100_000, "quota": 150_000, "shares": 2},
        "pids": {"limit": 9},
        "blockIO": {"weight": 10},
        "devices": [],
    }
    unlimited = _config(resources=Resources(memory=1 << 30, memory_swap=-1, pids_limit=-1))["linux"]["resources"]
    assert unlimited["memory"]["swap"] == -1
    assert "pids" not in unlimited


def test_process_limits_and_identity() -> None:
    made = _config(
        ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
        user="app:staff",
        group_add=("5", "audio"),
        no_new_privileges=True,
        oom_score_adj=7,
        annotations={"a": "b", "org.bulkhead.user": "root"},
    )
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]
    assert made["process"]["noNewPrivileges"] is True
    assert made["process"]["oomScoreAdj"] == 7
    assert made["annotations"] == {"a": "b", "org.bulkhead.user": "app:staff", "org.bulkhead.groups": "5,audio"}


def test_client_cannot_steer_the_engine_by_annotations() -> None:
    assert _config(annotations={"org.bulkhead.user": "root"})["annotations"] == {"org.bulkhead.user": "0"}


def test_devices() -> None:
    mapping = DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/nix", permissions="r")
    made = _config(devices=(mapping,), device_cgroup_rules=("c 42:* rm",))
    assert made["linux"]["devices"][0]["path"] == "/dev/nix"
    rules = made["linux"]["resources"]["devices"]
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"} in rules
    assert {"allow": True, "type": "c", "major": 42, "access": "rm"} in rules
    text = 'error gathering device information while adding custom device "/dev/nosuch": no such file or directory'
    with pytest.raises(Internal) as caught:
        _config(devices=(DeviceMapping(path_on_host="/dev/nosuch"),))
    assert str(caught.value) == text
    with pytest.raises(InvalidArgument):
        _config(device_cgroup_rules=("x",))


def test_unknown_capability_has_dockers_text() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapAdd: unknown capability: "CAP_FOO"'):
        _config(cap_add=("FOO",))


def test_init_goes_before_the_command() -> None:
    made = _config(around={"init_binary": "/usr/bin/tini"}, init=True)
    assert made["process"]["args"][:2] == ["/sbin/docker-init", "--"]
    assert _mount(made, "/sbin/docker-init")["source"] == "/usr/bin/tini"


def test_own_seccomp_profile() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    made = _config(seccomp_profile=json.dumps(profile))["linux"]["seccomp"]
    assert made["syscalls"] == profile["syscalls"]
    assert "seccomp" not in _config(seccomp_profile="unconfined")["linux"]
    for bad in ("{", "[]", '{"defaultAction": 5}'):
        with pytest.raises(Internal, match="Decoding seccomp profile failed"):
            _config(seccomp_profile=bad)


def _profile(text: str, capabilities: tuple[str, ...] = ()) -> dict[str, Any]:
    made = oci_profile(text, capabilities)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"architectures": ["A"], "archMap": [{"architecture": "A"}]}, "'architectures' and 'archMap' were specified"),
        ({"syscalls": [{"name": "a", "names": ["b"], "action": "x"}]}, "'name' and 'names' were specified"),
        (
            {"syscalls": [{"names": ["b"], "action": "x", "includes": {"minKernel": "x"}}]},
            "invalid kernel version: x",
        ),
    ],
)
def test_what_docker_refuses_in_a_profile(profile: dict[str, Any], words: str) -> None:
    with pytest.raises(Internal, match=words):
        oci_profile(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", **profile}), ())


def test_a_profile_that_says_nothing_confines_nothing() -> None:
    assert oci_profile("{}", ()) is None
    assert "seccomp" not in _config(seccomp_profile="{}")["linux"]


def test_a_listener_and_flags_are_handed_on() -> None:
    told = {"defaultAction": "SCMP_ACT_ALLOW", "flags": [], "listenerPath": "/run/x", "listenerMetadata": "m"}
    assert _profile(json.dumps(told)) == {**told, "architectures": [], "syscalls": []}


def test_conditions_of_dockers_profile_format() -> None:
    rules = [
        {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "2.6"}},
        {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
        {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["nosuch"]}},
        {
            "name": "f",
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
        },
    ]
    text = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": rules})

    def names(capabilities: tuple[str, ...]) -> list[str]:
        return [name for rule in _profile(text, capabilities)["syscalls"] for name in rule["names"]]

    assert names(()) == ["b", "c", "f"]
    assert names(("CAP_SYS_ADMIN",)) == ["a", "c", "f"]
    assert _profile(text, ())["syscalls"][-1]["args"] == [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]


def test_dockers_own_default_profile_is_accepted() -> None:
    path = Path("/work/shared/specs/seccomp/docker-default.json")
    if not path.exists():
        pytest.skip("the reference folder is not here")
    made = _profile(path.read_text(), defaults.DEFAULT_CAPABILITIES)
    assert made["architectures"]
    _config(seccomp_profile=path.read_text())
