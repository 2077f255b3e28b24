"""What a process inside may be, see and hold up (cve-battery C01, C02, C27, H01-H03, H07-H09, H30)."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bulkhead.linux import seccomp
from bulkhead.runtime import defaults
from tests.security.engine.conftest import Attack, Packed, entry
from tests.support.probe import parse, probe

DEFAULT = "00000000a80425fb"
NONE = "0000000000000000"
NEWS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
CALLS = {"clone": 56, "unshare": 272, "setns": 308, "clone3": 435, "add_key": 248, "request_key": 249, "keyctl": 250}


@pytest.fixture
def armed(attack: Attack) -> Attack:
    """An attack whose image has the probe, and a passwd that makes numbers into names."""
    users = b"root:x:0:0::/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"
    groups = b"root:x:0:\nwheel:x:10:root,bob\nstaff:x:50:bob\n1000:x:0:\n"
    answer = attack.pulled(Packed(entry("etc/passwd", data=users), entry("etc/group", data=groups)))
    assert answer.status == 200
    return attack


def status(text: str) -> dict[str, str]:
    return dict(parse("\n".join(line for line in text.splitlines() if line.startswith("status ")))["status"])


# ---- C27 and its mirror image: a container that holds up who joins it ----


@pytest.mark.parametrize("command", [("probe", "stop"), ("probe", "lease", "/bin/true")], ids=["stop", "lease"])
def test_a_container_cannot_make_itself_unkillable(armed: Attack, command: tuple[str, ...]) -> None:
    """An exec is seen inside before it execs. One that is stopped there, or whose program is leased, must not stop
    the engine from killing the container."""
    container = armed.start(*command)
    while "ready" not in armed.logs(container):
        pass
    program = ("/bin/true",) if command[1] == "lease" else ("true",)
    count = 1 if command[1] == "lease" else 6
    threads = [threading.Thread(target=armed.exec, args=(container, *program)) for _ in range(count)]
    for thread in threads:
        thread.start()
    killed = armed.engine.api("POST", f"/containers/{container}/kill", seconds=45)
    assert killed.status == 204, killed.body
    assert armed.engine.api("DELETE", f"/containers/{container}?force=1").status == 204
    for thread in threads:
        thread.join()


def test_whoever_joins_shows_nothing(armed: Attack) -> None:
    """A watcher with CAP_SYS_PTRACE looks at every new process; the control sees the container's own."""
    container = armed.start("probe", "watch", "/stop", host={"CapAdd": ["SYS_PTRACE"]})
    for _ in range(25):  # a traced process may leave another status, but it runs
        assert armed.exec(container, "true").ran
    armed.exec(container, "touch", "/stop")
    armed.engine.api("POST", f"/containers/{container}/wait")
    found = dict(part.split("=") for part in armed.logs(container).splitlines()[-1].split())
    assert int(found["looks"]) > 0
    assert found["writable"] == "0"


# ---- C01, C02 ----


def test_a_script_that_runs_its_runner_gets_nothing(armed: Attack) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` opened the runtime's own file."""
    script = entry("bin/loop", data=b"#!/proc/self/exe\n")
    armed.pulled(Packed(script))
    found = armed.run("loop")
    assert found.status != 0
    container = armed.start("sleep", "600")
    assert armed.exec(container, "loop").status != 0
    assert armed.exec(container, "true").status == 0


@pytest.mark.parametrize("place", [*(f"/proc/self/fd/{number}" for number in (3, 4, 7)), "/proc/1/cwd", "/link"])
def test_a_working_directory_is_never_a_descriptor(armed: Attack, place: str) -> None:
    armed.pulled(Packed(entry("link", b"2", linkname="/proc/self/fd/5")))
    assert not armed.run("pwd", WorkingDir=place).ran
    container = armed.start("sleep", "600")
    assert "chdir to cwd" in armed.exec(container, "pwd", WorkingDir=place).text
    assert armed.exec(container, "pwd", WorkingDir="/tmp").text == "/tmp\n"


def test_every_process_has_three_descriptors(armed: Attack) -> None:
    first = parse(armed.run("probe", "report").text)
    container = armed.start("sleep", "600")
    second = parse(armed.exec(container, "probe", "report").text)
    assert set(first["fd"]) == set(second["fd"]) == {"0", "1", "2"}


# ---- H01, H02, H03 ----


@pytest.mark.parametrize(
    ("user", "privileged", "held"),
    [("", False, DEFAULT), ("bob", False, NONE), ("", True, "000001ff"), ("bob", True, NONE)],
)
def test_nothing_is_inheritable_or_ambient(armed: Attack, user: str, privileged: bool, held: str) -> None:
    container = armed.start("sleep", "600")
    found = status(armed.exec(container, "probe", "report", User=user, Privileged=privileged).text)
    assert (found["CapInh"], found["CapAmb"]) == (NONE, NONE)
    assert found["CapEff"] == found["CapPrm"]
    assert found["CapEff"].startswith(held)


def test_init_has_nothing_inheritable_either(armed: Attack) -> None:
    found = status(armed.run("probe", "report", User="bob").text)
    assert [found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [
        NONE,
        NONE,
        NONE,
        DEFAULT,
        NONE,
    ]


@pytest.mark.parametrize(
    ("user", "groups"),
    [("", "0 10"), ("0", "0 10"), ("bob", "10 50 1001"), ("bob:staff", "50"), ("1001", "10 50 1001"), ("77:88", "88")],
)
def test_groups_are_dockers(armed: Attack, user: str, groups: str) -> None:
    """Memberships, and the process's own group: a file that its group may not read stays shut (CVE-2022-36109)."""
    first = status(armed.run("probe", "report", User=user).text)["Groups"]
    container = armed.start("sleep", "600")
    second = status(armed.exec(container, "probe", "report", User=user).text)["Groups"]
    assert first.split() == second.split() == groups.split()


def test_added_groups_come_beside_the_own(armed: Attack) -> None:
    found = status(armed.run("probe", "report", User="77:88", host={"GroupAdd": ["staff", "99"]}).text)
    assert found["Groups"].split() == ["50", "88", "99"]


@pytest.mark.parametrize(
    ("user", "uid"),
    [
        ("1000", "1000"),
        ("01000", "1000"),
        ("2147483647", "2147483647"),
        *((text, None) for text in ("2147483648", "4294967295", "4294967296", "18446744073709551616", "-1", "-0x0")),
        *((text, None) for text in ("0x0", "1 ", "\uff11", "nobody-here", "bob:4294967296", "bob:nogroup-here")),
    ],
)
def test_a_number_is_a_number_and_never_wraps(armed: Attack, user: str, uid: str | None) -> None:
    """CVE-2016-3697, CVE-2024-40635: passwd has a user *named* 1000 who is root."""
    found = armed.run("grep", "Uid", "/proc/self/status", User=user)
    container = armed.start("sleep", "600")
    joined = armed.exec(container, "grep", "Uid", "/proc/self/status", User=user)
    if uid is None:
        assert not found.ran and "Uid" not in found.text
        assert joined.status != 0 and "Uid" not in joined.text
    else:
        assert found.text.split() == joined.text.split() == ["Uid:", *[uid] * 4]


# ---- H05-H08, H30 ----


def test_the_kernel_holds_the_default_filter_of_every_process(armed: Attack) -> None:
    container = armed.start("sleep", "600")
    done = subprocess.run([probe(), "filter", str(armed.pid(container))], capture_output=True, text=True, check=True)
    expected = seccomp.compile_profile(defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)).code
    assert bytes.fromhex(done.stdout) == expected
    assert status(armed.exec(container, "probe", "report").text)["Seccomp"] == "2"


def test_no_new_namespaces_and_no_keys(armed: Attack) -> None:
    """By the filter's EPERM, for init and exec; with CAP_SYS_ADMIN the same calls get through."""
    words = [f"probe call {CALLS['unshare']} {flag}" for flag in NEWS]
    words += [f"probe call {CALLS['clone']} {flag | 17} 0 0 0 0" for flag in NEWS]
    words += [f"probe call {CALLS['setns']} 0 0", f"probe call {CALLS['clone']} {0x40000000 | 17 | 1 << 32} 0 0 0 0"]
    words += [f"probe call {CALLS[name]} 0 -3 0 0 0" for name in ("add_key", "request_key", "keyctl")]
    script = "; ".join(words)
    assert set(armed.run("sh", "-c", script).text.split()) == {"EPERM"}
    container = armed.start("sleep", "600")
    assert set(armed.exec(container, "sh", "-c", script).text.split()) == {"EPERM"}
    assert armed.exec(container, "probe", "call", str(CALLS["clone3"]), "0", "0").text == "ENOSYS\n"
    admin = armed.run("probe", "call", str(CALLS["unshare"]), str(0x04000000), host={"CapAdd": ["SYS_ADMIN"]})
    assert admin.text == "ok\n"


def test_sessions_keyrings_are_their_own(armed: Attack) -> None:
    """H08: with the filter off, two containers and two execs have four session keyrings."""
    host, ask = {"SecurityOpt": ["seccomp=unconfined"]}, ("probe", "report")
    assert status(armed.run(*ask, host=host).text)["Seccomp"] == "0"
    shown = ("sh", "-c", f"probe call {CALLS['keyctl']} 0 -3 0")
    assert armed.run(*shown, host=host).text == "ok\n"


def test_setuid_programs_gain_nothing_under_no_new_privileges(armed: Attack) -> None:
    armed.pulled(Packed(entry("bin/up", data=probe().read_bytes(), mode=0o4755)))
    host = {"SecurityOpt": ["no-new-privileges"]}
    assert status(armed.run("up", "report", User="1000").text)["Uid"].split()[1] == "0"
    found = status(armed.run("up", "report", User="1000", host=host).text)
    assert (found["NoNewPrivs"], found["Uid"].split()[1], found["CapEff"]) == ("1", "1000", NONE)
    container = armed.start("sleep", "600", host=host)
    found = status(armed.exec(container, "up", "report", User="1000").text)
    assert (found["NoNewPrivs"], found["Uid"].split()[1], found["CapEff"]) == ("1", "1000", NONE)


# ---- H09 ----


def test_each_has_exactly_its_own_environment(armed: Attack) -> None:
    def one(number: int) -> set[str]:
        text = armed.run("cat", "/proc/self/environ", Env=[f"SECRET={number}", f"ONLY_{number}=x"]).text
        return {entry for entry in text.split("\0") if entry and not entry.startswith("HOSTNAME=")}

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(one, range(16))):
            rest = {"HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
            assert found == {f"SECRET={number}", f"ONLY_{number}=x", *rest}


def test_nothing_of_the_services_comes_in(armed: Attack) -> None:
    container = armed.start("sleep", "600")
    text = Path(f"/proc/{armed.pid(container)}/environ").read_text() + armed.exec(container, "env").text
    assert "BULKHEAD" not in text and "PYTHON" not in text
