"""What `docker run`'s options do, seen from inside: command lines and their evidence, the same from dockerd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from tests.compat.conftest import SECONDS, Target

IMAGE = "options:latest"
CG = "/sys/fs/cgroup"
V1 = not Path(CG, "cgroup.controllers").exists()
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nal:x:1000:1001:Al:/home/al:/bin/sh\n"
_GROUP = "root:x:0:\nstaff:x:50:al\nal:x:1001:\naudio:x:29:\n"

# One that outlives its parent, and is known by /p.
ORPHAN = "(sh -c 'echo $$ >/p; exec sleep 0.1' &); while ! test -s /p; do sleep 0.05; done"
_APPLETS = "sh cat grep id ls mount head tail sort touch tr cut ps sleep test echo pwd hostname env"

# options, command inside, what it says
EVIDENCE = [
    ("--user al", "id", "uid=1000(al) gid=1001(al) groups=50(staff),1001(al)"),
    ("--user al:staff", "id", "uid=1000(al) gid=50(staff)"),
    ("--user al:staff:audio", "id", "uid=1000(al) gid=50(staff)"),
    ("--user 1:2:3", "id -u; id -G", "1\n2"),
    ("--user al::staff", "id", "uid=1000(al) gid=1001(al) groups=50(staff),1001(al)"),
    ("--user 4242", "id", "uid=4242 gid=0(root) groups=0(root)"),
    ("--user al", "echo $HOME", "/home/al"),
    ("--user al --group-add audio --group-add 777", "id -G", "1001 29 50 777"),
    ("--cap-drop all --cap-add CAP_KILL", "grep CapEff /proc/self/status", "CapEff:\t0000000000000020"),
    ("--cap-add net_admin --cap-drop cap_chown", "grep CapEff /proc/self/status", "CapEff:\t00000000a80435fa"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    ("--security-opt no-new-privileges=false", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    ("--security-opt label=disable --security-opt apparmor=unconfined", "echo ran", "ran"),
    ("--security-opt systempaths=unconfined", "mount | grep -c ' /proc/'", "0"),
    ("--sysctl net.core.somaxconn=1024", "cat /proc/sys/net/core/somaxconn", "1024"),
    ("--sysctl kernel.msgmax=65536", "cat /proc/sys/kernel/msgmax", "65536"),
    ("--tmpfs /x:size=1m,mode=700,exec", "mount | grep ' /x '", "tmpfs on /x type tmpfs (rw,nosuid,nodev,"),
    ("--mount type=tmpfs,target=/x,tmpfs-mode=700", "ls -ld /x | cut -c1-10", "drwx------"),
    ("--shm-size 1m", "mount | grep /dev/shm", "shm on /dev/shm type tmpfs (rw,nosuid,nodev,noexec,relatime,size=1"),
    ("--ipc none", "ls -d /dev/shm 2>/dev/null || echo none", "none"),
    ("--ulimit nofile=100:200", "ulimit -n; ulimit -Hn", "100\n200"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
    ("--device /dev/null:/dev/mine:r", "cat /dev/mine; (echo x > /dev/mine) 2>&1 | grep -c denied", ""),
    ("-h foo --domainname example.org", "hostname; cat /proc/sys/kernel/domainname", "foo\nexample.org"),
    ("--uts host", "cat /proc/sys/kernel/hostname", Path("/proc/sys/kernel/hostname").read_text().strip()),
    (
        "--dns 1.2.3.4 --dns-search=x.org --dns-opt=a",
        "sort /etc/resolv.conf | tr '\\n' +",
        "nameserver 1.2.3.4+options a+search x.org",
    ),
    ("--add-host a:1.2.3.4 --add-host b:::1", "tail -n 2 /etc/hosts", "1.2.3.4\ta\n::1\tb"),
    ("--workdir /a/b", "pwd", "/a/b"),
    ("-e A=b -e HOSTNAME=x", "echo $A $HOSTNAME", "b x"),
    ("--read-only", "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo there", "refused\nthere"),
    ("--read-only -v /vol", "touch /vol/x && echo written", "written"),
    ("-v /tmp:/x:ro", "touch /x/y 2>/dev/null || echo refused", "refused"),
    ("--init", "cat /proc/1/cmdline | tr '\\0' ' ' | cut -c1-21", "/sbin/docker-init --"),
    ("--init", f"{ORPHAN}; while test -d /proc/$(cat /p); do :; done; echo reaped", "reaped"),
    ("--init --pid host", "tr '\\0' ' ' < /proc/self/cmdline | cut -c1-2", "tr"),
    ("--pid host", "test -d /proc/2 && cat /proc/2/comm", "kthreadd"),
    ("--annotation a=b", "echo ran", "ran"),
    # By this Java and other users of getmntent(3) find file systems; few images bring it.
    ("--read-only", "grep -c ' / ' /etc/mtab", "1"),
]  # fmt: skip
LIMITS = [
    ("--memory 64m", f"cd {CG}/memory; cat memory.limit_in_bytes memory.memsw.limit_in_bytes", "67108864\n134217728"),
    ("--memory 64m --memory-reservation 32m", f"cat {CG}/memory/memory.soft_limit_in_bytes", "33554432"),
    ("--memory 64m --memory-swappiness 10", f"cat {CG}/memory/memory.swappiness", "10"),
    ("--memory 64m --oom-kill-disable", f"head -n 1 {CG}/memory/memory.oom_control", "oom_kill_disable 1"),
    ("--cpus 0.5", f"cat {CG}/cpu/cpu.cfs_quota_us {CG}/cpu/cpu.cfs_period_us", "50000\n100000"),
    ("--cpu-period 50000 --cpu-quota 25000", f"cat {CG}/cpu/cpu.cfs_quota_us", "25000"),
    ("--cpu-shares 512", f"cat {CG}/cpu/cpu.shares", "512"),
    ("--cpuset-cpus 0 --cpuset-mems 0", f"cat {CG}/cpuset/cpuset.cpus {CG}/cpuset/cpuset.mems", "0\n0"),
    ("--pids-limit 77", f"cat {CG}/pids/pids.max", "77"),
    ("--pids-limit -1", f"cat {CG}/pids/pids.max", "max"),
    ("--device-cgroup-rule 'c 10:200 rwm'", f"grep -c '10:200 rwm' {CG}/devices/devices.list", "1"),
    ("--cgroupns private", "grep pids: /proc/self/cgroup | cut -d: -f3", "/"),
]  # fmt: skip
# options, command, what the client is told
REFUSALS = [
    ("--cap-add FOO", 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ("--device /dev/nosuch", 'while adding custom device "/dev/nosuch": no such file or directory'),
    ("--device /etc", 'while adding custom device "/etc": not a device node'),
    ("--gpus all", 'could not select device driver "" with capabilities: [[gpu]]'),
    ("--sysctl vm.swappiness=1", "vm.swappiness"),
    ("--sysctl net.x=1 --net host", 'sysctl "net.x" not allowed in host network namespace'),
    ("--tmpfs /x:foo", 'invalid tmpfs option ["foo"]'),
    ("--tmpfs /x:size=9,foo=bar", 'invalid tmpfs option ["foo" "bar"]'),
    ("--tmpfs /x/y:noexec,size=foo", 'error mounting "tmpfs" to rootfs at "/x/y": '),
    ("--tmpfs /x:mode=9", "invalid argument: unknown"),
    ("--user nosuch", "unable to find user nosuch: no matching entries in passwd file"),
    ("--security-opt foo=bar", 'invalid --security-opt 2: "foo=bar"'),
    ("--ipc foo", "nvalid IPC mode: foo"),
    ("--storage-opt size=1G", "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
    ("--volumes-from nosuch", "No such container: nosuch"),
    ("--link nosuch", "could not get container for nosuch: No such container: nosuch"),
    ("--pid container:nosuch", "No such container: nosuch"),
    ("--isolation hyperv", "Invalid isolation: \"hyperv\" - linux only supports 'default'"),
    ("--cpuset-cpus a", "Invalid value a for cpuset cpus: invalid format: a"),
    ("--cpuset-cpus 999", "Requested CPUs are not available - requested 999"),
    ("--cpus 1 --cpu-period 1000", "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    ("-m 10m --memory-swap 5m", "Minimum memoryswap limit should be larger than memory limit, see usage"),
    ("-v /tmp:/x:foo", "invalid mode: foo"),
    ("-v /proc:/x:rslave", "path /proc is mounted on /proc but it is not a shared or slave mount"),
    ("-v /tmp:/a -v /etc:/a", "Duplicate mount point: /a"),
    ("--mount type=bind,src=/nosuch,dst=/x", "bind source path does not exist: /nosuch"),
]  # fmt: skip


@pytest.fixture(params=["real", "dockerd"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Engines that run what they are told; with an image that has users of its own."""
    if request.param == "real":
        engine = request.getfixturevalue("engine")
        found = Target("real", f"unix://{engine.instance.docker_socket}", engine.base)
    else:
        found = request.getfixturevalue(f"{request.param}_target")
    _make_image(found)
    yield found
    left = found.docker("ps", "-aq").stdout.split()
    if left:
        found.docker("rm", "-f", "-v", *left)


def _make_image(target: Target) -> None:
    if target.docker("image", "inspect", IMAGE).returncode == 0:
        return
    tree = target.base / "options"
    busybox = subprocess.check_output(["sh", "-c", "command -v busybox"], text=True).strip()
    for name in ("bin", "etc", "tmp", "root", "proc", "dev", "sbin", "home/al"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(Path(busybox).read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    for applet in _APPLETS.split():
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text(_PASSWD)
    (tree / "etc/group").write_text(_GROUP)
    target.ok("import", "-", IMAGE, input=subprocess.check_output(["tar", "-C", str(tree), "-c", "."]))


def _run(target: Target, options: str, command: str) -> subprocess.CompletedProcess[str]:
    words = subprocess.check_output(["sh", "-c", f"printf '%s\\0' {options}"], text=True).split("\0")[:-1]
    if "--net" not in words and "--link" not in words:
        words += ["--net", "none"]
    return target.docker("run", "--rm", *words, IMAGE, "sh", "-c", command)


@pytest.mark.parametrize(("options", "command", "said"), EVIDENCE, ids=[row[0] + ": " + row[1] for row in EVIDENCE])
def test_option_has_its_effect(target: Target, options: str, command: str, said: str) -> None:
    if "--annotation" in options and target.kind == "dockerd":
        pytest.skip("newer than this dockerd")
    done = _run(target, options, command)
    assert done.stdout.strip().startswith(said), done.stderr


@pytest.mark.skipif(not V1, reason="the files of cgroup v1")
@pytest.mark.parametrize(("options", "command", "said"), LIMITS, ids=[row[0] for row in LIMITS])
def test_limit_is_in_the_cgroup(target: Target, options: str, command: str, said: str) -> None:
    done = _run(target, options, command)
    assert done.stdout.strip() == said, done.stderr


@pytest.mark.parametrize(("options", "reason"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_option_is_refused(target: Target, options: str, reason: str) -> None:
    done = _run(target, options, "true")
    assert done.returncode in (125, 126, 127)
    assert reason in done.stderr
    assert not target.ok("ps", "-aq")


def test_a_link_that_leads_nowhere_is_no_source_of_a_mount(target: Target, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nosuch")
    done = _run(target, f"--mount type=bind,src={link},dst=/x", "true")
    assert (done.returncode, f"bind source path does not exist: {link}" in done.stderr) == (125, True)


def test_ipc_namespace_is_shared_where_its_owner_says_so(target: Target) -> None:
    """With /dev/shm; that of a private container is nobody's."""
    target.ok(
        "run",
        "-d",
        "--net=none",
        "--name=open",
        "--ipc=shareable",
        IMAGE,
        "sh",
        "-c",
        "echo hi > /dev/shm/f; sleep 100",
    )
    target.ok("run", "-d", "--net=none", "--name=closed", IMAGE, "sleep", "100")
    script = "while ! test -s /dev/shm/f; do sleep 0.05; done; cat /dev/shm/f; echo back > /dev/shm/g"
    assert _run(target, "--ipc container:open", script).stdout == "hi\n"
    assert target.ok("exec", "open", "cat", "/dev/shm/g") == "back"
    refused = _run(target, "--ipc container:closed", "true")
    assert "non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in refused.stderr
    owner = target.ok("inspect", "open", "--format", "{{.Id}}")
    target.ok("create", "--name=later", "--net=none", "--ipc=container:open", IMAGE, "true")
    assert target.ok("inspect", "later", "--format", "{{.HostConfig.IpcMode}}") == f"container:{owner}"
    target.ok("rm", "-f", "open")
    assert target.docker("start", "later").returncode != 0
    assert f"/{owner}/" not in Path("/proc/self/mountinfo").read_text()


def test_a_network_is_shared_through_another_that_shares_it(target: Target) -> None:
    """Its files of names are those of the one whose network it is, which has them."""
    idle = ("sh", "-c", "exec sleep 1000")
    target.ok("run", "-d", "--name", "first", "--hostname", "the-first", IMAGE, *idle)
    target.ok("run", "-d", "--name", "second", "--network", "container:first", IMAGE, *idle)
    seen = target.ok("run", "--rm", "--network", "container:second", IMAGE, "sh", "-c", "hostname; cat /etc/hosts")
    assert seen == f"the-first\n{target.ok('exec', 'first', 'cat', '/etc/hosts')}"


def test_networks_shared_in_a_circle_are_refused(target: Target) -> None:
    target.ok("create", "--name", "one", "--network", "container:two", IMAGE, "true")
    target.ok("create", "--name", "two", "--network", "container:one", IMAGE, "true")
    for name in ("one", "two"):
        done = target.docker("start", name)
        assert (done.returncode, "cannot join network of a non running container" in done.stderr) == (1, True)


def test_mounts_say_how_they_were_asked_for(target: Target) -> None:
    options = ["-v", "one:/1:ro", "-v", "two:/2:nocopy", "-v", "three:/3", "-v", "/4", "-v", "/tmp:/5:z,ro"]
    target.ok("create", "--name=mm", "--net=none", *options, "--mount=type=volume,src=six,dst=/6", IMAGE, "true")
    shown = {each["Destination"]: each for each in json.loads(target.ok("inspect", "mm"))[0]["Mounts"]}
    assert {place: (each["Mode"], each["RW"]) for place, each in shown.items()} == {
        "/1": ("ro", False),
        "/2": ("nocopy", True),
        "/3": ("z", True),
        "/4": ("", True),
        "/5": ("z,ro", False),
        "/6": ("z", True),
    }
    target.ok("rm", "mm")
    target.ok("volume", "rm", "one", "two", "three", "six")


def test_host_config_is_shown_as_docker_normalises_it(target: Target) -> None:
    target.ok("create", "--name=nn", "--net=none", "--privileged", "--pids-limit=-1", IMAGE, "true")
    shown = json.loads(target.ok("inspect", "nn"))[0]
    host = shown["HostConfig"]
    assert (host["PidsLimit"], host["MemorySwappiness"], host["SecurityOpt"]) == (None, None, ["label=disable"])
    assert (host["MaskedPaths"], host["ReadonlyPaths"], shown["Config"]["Env"]) == (None, None, None)


def test_what_a_client_left_out_of_an_object_is_shown(target: Target) -> None:
    """docker-py sends no HostIp when it is given none, and scripts read it."""
    client = DockerClient(target.socket, timeout=SECONDS)
    host: dict[str, Any] = {
        "PortBindings": {"80/tcp": [{"HostPort": "39411"}], "81/tcp": [{}], "82/tcp": []},
        "Ulimits": [{"Name": "nofile"}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}],
        "DeviceRequests": [{"Driver": "nosuch"}],
    }
    body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": host, "StopTimeout": 0, "Labels": {"a": None}}
    made = client.api.create_container_from_config(body, name="pp")
    shown = client.api.inspect_container(made)
    assert {name: shown["HostConfig"][name] for name in host} == {
        "PortBindings": {
            "80/tcp": [{"HostIp": "", "HostPort": "39411"}],
            "81/tcp": [{"HostIp": "", "HostPort": ""}],
            "82/tcp": [],
        },
        "Ulimits": [{"Name": "nofile", "Hard": 0, "Soft": 0}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": ""}],
        "DeviceRequests": [{"Driver": "nosuch", "Count": 0, "DeviceIDs": None, "Capabilities": None, "Options": None}],
    }
    assert (shown["Config"]["StopTimeout"], shown["Config"]["Labels"]) == (0, {"a": ""})
    client.close()


def test_warning_about_a_disabled_oom_killer(target: Target) -> None:
    told = _run(target, "--oom-kill-disable", "true").stderr
    assert told.count("OOM killer is disabled for the container, but no memory limit is set") == 1


def test_a_linked_container_is_found_at_its_new_address(target: Target) -> None:
    """The file of the other one is told, which goes on running."""
    if target.kind == "dockerd":
        pytest.skip("the control has no bridge")
    address_of = ("inspect", "db", "--format", "{{.NetworkSettings.IPAddress}}")
    target.ok("run", "-d", "--name=db", IMAGE, "sleep", "1000")
    before = target.ok(*address_of)
    target.ok("run", "-d", "--name=app", "--link=db:store", IMAGE, "sleep", "1000")
    target.ok("exec", "app", "sh", "-c", "echo '1.2.3.4 mine' >>/etc/hosts")
    target.ok("stop", "-t", "0", "db")
    # An address that is free is given again, unless nobody remembers it.
    target.ok("network", "disconnect", "bridge", "db")
    target.ok("network", "connect", "bridge", "db")
    target.ok("start", "db")
    after = target.ok(*address_of)
    told = target.ok("exec", "app", "cat", "/etc/hosts")
    assert after != before
    assert f"{after}\tstore" in told
    assert before not in told
    assert "1.2.3.4 mine" in told


def test_links_of_the_default_bridge(target: Target) -> None:
    """Variables, a line in /etc/hosts, names that follow a rename, and their removal."""
    if target.kind == "dockerd":
        pytest.skip("the control has no bridge")
    target.ok("run", "-d", "--name=db", "-h", "dbhost", "-e", "FOO=bar", "--expose=6379", IMAGE, "sleep", "100")
    address = target.ok("inspect", "db", "--format", "{{.NetworkSettings.IPAddress}}")
    told = _run(target, "--name app --link db:the-db", "env; cat /etc/hosts").stdout
    for line in (
        f"THE_DB_PORT=tcp://{address}:6379",
        f"THE_DB_PORT_6379_TCP_ADDR={address}",
        "THE_DB_NAME=/app/the-db",
        "THE_DB_ENV_FOO=bar",
        f"{address}\tthe-db dbhost db",
    ):
        assert f"{line}\n" in told
    target.ok("create", "--name=later", "--link=db:one", "--link=db:two", IMAGE, "true")
    target.ok("rename", "db", "base")
    target.ok("rm", "--link", "/later/one")
    assert target.ok("inspect", "later", "--format", "{{json .HostConfig.Links}}") == '["/base:/later/two"]'
    shown = target.ok("ps", "--no-trunc", "--format", "{{.Names}}").split()
    assert shown == ["base,later/two"]
    target.ok("stop", "-t", "0", "base")
    assert "Cannot link to a non running container: /base AS /later/two" in target.docker("start", "later").stderr


@pytest.mark.parametrize("limited", ["at the create", "by an update"])
def test_each_kill_for_want_of_memory_is_an_event(target: Target, client: DockerClient, limited: str) -> None:
    """While the container goes on: whoever watches would see nothing wrong until it ends."""
    if target.kind == "fake":
        pytest.skip("runs nothing")
    limits = ("--memory=16m", "--memory-swap=16m")
    container = target.ok("run", "-d", *(limits if limited == "at the create" else ()), IMAGE, "sleep", "1000")
    if limited == "by an update":
        target.ok("update", *limits, container)
    told = client.events(since=0, decode=True, filters={"event": "oom", "container": container})
    # The shell asks for more and more.
    hog = "x=0123456789abcdef; while :; do x=$x$x; done"
    for _ in range(2):
        assert target.docker("exec", container, "sh", "-c", hog).returncode == 137
        assert next(told)["Action"] == "oom"
    assert target.ok("inspect", "-f", "{{.State.Running}}", container) == "true"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "-v {0}/dangling:/x",
            "error while creating mount source path '{0}/dangling': mkdir {0}/dangling: file exists",
        ),
        ("-v {0}/dangling/a/b:/x", "mount source path '{0}/dangling/a/b': mkdir {0}/dangling: file exists"),
        ("-v {0}/loop/a:/x", "mount source path '{0}/loop/a': mkdir {0}/loop: file exists"),
        ("--mount type=bind,src={0}/dangling,dst=/x", "bind source path does not exist: {0}/dangling"),
    ],
)
def test_a_bind_source_that_a_link_is_in_the_way_of(target: Target, tmp_path: Path, options: str, words: str) -> None:
    """Refused at the create; what would have to be made is not."""
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = _run(target, f"--rm {options.format(tmp_path)}", "true")
    assert done.returncode == 125 and words.format(tmp_path) in done.stderr
    assert not (tmp_path / "nowhere").exists()
