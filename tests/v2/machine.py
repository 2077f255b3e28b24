"""Boot one of Debian's kernels in qemu and run tests there: `-m tests.v2.machine [--systemd] [pytest's arguments]`.

The machine's root is this host's, read-only over 9p with a tmpfs above it, so that the project and its virtual
environment are in their places. The kernel comes from apt into BULKHEAD_V2_CACHE. There need be no KVM: qemu
emulates the processor (several times slower); BULKHEAD_V2_ACCEL=kvm uses it where it works.
"""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("BULKHEAD_V2_CACHE", "/tmp/bulkhead-v2"))
SECONDS = int(os.environ.get("BULKHEAD_V2_SECONDS", "1500"))
ACCELERATOR = os.environ.get("BULKHEAD_V2_ACCEL", "tcg,thread=single")
VERDICT = re.compile(rb"bulkhead-v2: exit ([0-9]+)")

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "veth", "bridge", "bfq", "null_blk", "loop")
TESTS = (
    *("tests/unit/linux", "tests/integration/linux/test_cgroups.py"),
    *("tests/integration/linux/test_cgroups_v2.py", "tests/integration/runtime/test_lifecycle.py"),
)
# These need a newer kernel than Debian's 6.12: 6.15 tells how a process ended that was no child of ours, 6.13 takes
# overlay layers by descriptor.
NEWER = (
    "tests/integration/runtime/test_lifecycle.py::test_many_layers_with_long_names",
    "tests/unit/linux/test_pidfd.py::test_a_process_that_is_nobodys_child_here_still_runs",
    "tests/integration/runtime/test_lifecycle.py::test_a_failed_start_can_still_be_reaped",
    "tests/integration/runtime/test_lifecycle.py::test_a_container_outlives_its_parent_and_its_exit_code_is_known",
)
SYSTEMD_TESTS = ("tests/integration/linux/test_cgroup_systemd.py",)


class MachineError(Exception):
    """The machine cannot be made or did not tell a verdict."""


def main(arguments: Sequence[str]) -> int:
    systemd = "--systemd" in arguments
    given = [each for each in arguments if each != "--systemd"]
    try:
        return run(given or list(SYSTEMD_TESTS if systemd else TESTS), systemd=systemd)
    except MachineError as error:
        print(f"test-v2: {error}", file=sys.stderr)
        return 2


def run(tests: Sequence[str], *, systemd: bool) -> int:
    """Exit status of pytest in the machine; its output goes to stdout."""
    if shutil.which("qemu-system-x86_64") is None:
        raise MachineError("cannot boot: qemu-system-x86_64 is missing (apt-get install qemu-system-x86)")
    if systemd and not Path("/lib/systemd/systemd").exists():
        raise MachineError("cannot boot with systemd: it is not installed (apt-get install systemd)")
    unpacked = _kernel()
    archive = _initramfs(unpacked, tests)
    words = ["bulkhead.systemd"] if systemd else []
    return _boot(next(unpacked.glob("boot/vmlinuz-*")), archive, words)


def _kernel() -> Path:
    """Debian's newest kernel (backports: overlayfs of 6.5 and later), unpacked once; nothing of it is installed."""
    place = CACHE / "kernel"
    if not place.exists():
        apt = _backports()
        wanted = re.search(r"Depends: (linux-image-\S+)", _output("apt-cache", *apt, "depends", "linux-image-amd64"))
        if wanted is None:
            raise MachineError("cannot find a kernel: apt knows no linux-image-amd64")
        fresh = CACHE / f"kernel.{os.getpid()}"
        _output("apt-get", *apt, "-o", "APT::Sandbox::User=root", "download", wanted[1], cwd=CACHE)
        _output("dpkg-deb", "-x", str(next(CACHE.glob(f"{wanted[1]}_*.deb"))), str(fresh))
        fresh.rename(place)
    return place


def _backports() -> tuple[str, ...]:
    """apt's options for the backports of this host's own mirror and release, with lists of their own."""
    named = "$(REPO_URI) $(CODENAME)"
    targets = _output("apt-get", "indextargets", "--format", named, "Created-By: Packages", "Origin: Debian")
    mirrors = [line.split() for line in targets.splitlines() if "security" not in line and "-" not in line.split()[1]]
    if not mirrors:
        raise MachineError("cannot find a kernel: apt has no Debian mirror")
    uri, release = mirrors[0]
    (CACHE / "lists/partial").mkdir(parents=True, exist_ok=True)
    (CACHE / "sources.list").write_text(f"deb {uri} {release}-backports main\n")
    own = {"Dir::Etc::sourcelist": "sources.list", "Dir::State::lists": "lists", "Dir::Cache": "."}
    options = ["-o", "Dir::Etc::sourceparts=-"]
    for key, name in own.items():
        options += ["-o", f"{key}={CACHE / name}"]
    _output("apt-get", *options, "update")
    return tuple(options)


def _initramfs(kernel: Path, tests: Sequence[str]) -> Path:
    """Busybox, the modules in the order of their needs, the first program, and what it runs in the end."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise MachineError("cannot boot: busybox is missing (apt-get install busybox-static)")
    place = CACHE / "initramfs"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("bin", "modules", "proc", "dev", "host", "scratch", "root"):
        (place / name).mkdir(parents=True)
    shutil.copy(busybox, place / "bin" / "busybox")
    (place / "bin" / "sh").symlink_to("busybox")
    shutil.copy(PROJECT / "tests/v2/init.sh", place / "init")
    (place / "init").chmod(0o755)
    files = (*kernel.glob("lib/modules/*/kernel/**/*.ko"), *kernel.glob("lib/modules/*/kernel/**/*.ko.xz"))
    ordered = dict(_in_order({path.name.partition(".")[0]: path for path in files}))
    for name, data in ordered.items():
        (place / "modules" / f"{name}.ko").write_bytes(data)
    (place / "modules/order").write_text("\n".join(f"{name}.ko" for name in ordered))
    (place / "inside.sh").write_text(_inside(tests))
    archive = CACHE / "initramfs.cpio"
    names = "\n".join(str(path.relative_to(place)) for path in [place, *place.rglob("*")])
    archive.write_bytes(
        subprocess.run([busybox, "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=place, check=True,
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    )  # fmt: skip
    return archive


def _in_order(modules: dict[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted modules, each after those it needs."""
    done = set[str]()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in modules:  # not a module: it is in the kernel itself
            return
        done.add(name)
        packed = modules[name].read_bytes()
        data = lzma.decompress(packed) if modules[name].suffix == ".xz" else packed
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for need in filter(None, needs[1].decode().split(",") if needs else ()):
            yield from visit(need if need in modules else need.replace("_", "-"))
        yield name, data

    for name in MODULES:
        yield from visit(name)


def _inside(tests: Sequence[str]) -> str:
    """One processor is emulated by one thread: tests one after the other, with patience."""
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--timeout", "600", "--color", "no"]
    options += [f"--deselect={each}" for each in NEWER]
    command = shlex.join([sys.executable, "-m", "pytest", *options, *tests])
    return f"""\
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
busybox ip link set lo up
cd {shlex.quote(str(PROJECT))}
uname -r; cat /sys/fs/cgroup/cgroup.controllers
{command} </dev/null
echo "bulkhead-v2: exit $?"
"""


def _boot(kernel: Path, archive: Path, words: Sequence[str]) -> int:
    line = ["console=ttyS0", "quiet", "panic=-1", "cgroup_no_v1=all", "psi=1", "hugepages=4", "mitigations=off", *words]
    command = [
        *("qemu-system-x86_64", "-accel", ACCELERATOR, "-cpu", "host" if "kvm" in ACCELERATOR else "max"),
        *("-smp", "2", "-m", "3072", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
        *("-kernel", str(kernel), "-initrd", str(archive), "-append", " ".join(line)),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
        guard = threading.Timer(SECONDS, machine.kill)
        guard.start()
        try:
            assert machine.stdout is not None
            return _verdict(machine.stdout)
        finally:
            guard.cancel()
            machine.kill()


def _verdict(console: Iterable[bytes]) -> int:
    """Pass the console on; the machine says how the tests ended before it goes."""
    verdict = None
    for line in console:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        if found := VERDICT.search(line):
            verdict = int(found[1])
    if verdict is None:
        raise MachineError(f"the machine ended without a verdict (it has {SECONDS} seconds: BULKHEAD_V2_SECONDS)")
    return verdict


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        return subprocess.run(command, check=True, text=True, cwd=cwd, stdout=subprocess.PIPE).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError(f"cannot prepare the machine: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
