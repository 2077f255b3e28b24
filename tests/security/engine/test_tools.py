"""Tools and libraries of an image are never run or loaded by the engine (cve-battery C10)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from bulkhead.ctl.seed.images import Tree
from tests.security.engine.conftest import Attack, post

TOOLS = "xz unxz unpigz pigz gzip gunzip zstd bzip2 tar ps getent git modprobe iptables ip mount nsenter ldconfig"
LIBRARIES = "libnss_files.so.2 libnss_compat.so.2 libnss_dns.so.2 libc.so.6 libgcc_s.so.1 libpthread.so.0 libz.so.1"
MARK = b'#!/bin/sh\necho "$0 $$ $(id -u)" >> /marker\n'
CONSTRUCTOR = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void)
{
    int fd = open("/marker", O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd >= 0 && write(fd, "library\\n", 8) > 0)
        close(fd);
}
"""
# What begins like a compressed stream, sound or broken: engines have called the image's decompressor for it.
MAGICS = (b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"#!/bin/sh\n")


def library(directory: Path) -> bytes:
    """A shared object that marks the root file system of whoever loads it."""
    source = directory / "mark.c"
    source.write_text(CONSTRUCTOR)
    made = directory / "mark.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", made, source, "-lc"], check=True)
    return made.read_bytes()


@pytest.fixture
def armed(attack: Attack, tmp_path: Path) -> Attack:
    """An attack whose image has its own of everything that a host's helper might look for."""
    tree = Tree()
    for name in TOOLS.split():
        for place in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
            tree.file(f"{place}/{name}", MARK, mode=0o755)
    for name in LIBRARIES.split():
        for place in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            tree.file(f"{place}/{name}", library(tmp_path), mode=0o755)
    tree.file("etc/ld.so.preload", b"/lib/libnss_files.so.2\n")
    tree.file("etc/nsswitch.conf", b"passwd: files compat\ngroup: files\n")
    tree.file("etc/passwd", b"root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n")
    tree.file("etc/group", b"root:x:0:\nbob:x:1000:\nextra:x:50:\n")
    for place in ("sitecustomize.py", "usr/lib/python3/dist-packages/sitecustomize.py", "usercustomize.py"):
        tree.file(place, b"open('/marker', 'a').write('python')\n")
    assert attack.pulled(tree).status == 200
    return attack


def marker(attack: Attack, container: str) -> bool:
    """Whether anybody has run or loaded something of the container's; asked by a program of busybox that is no trap."""
    return attack.exec(container, "busybox", "test", "-e", "/marker").status == 0


def test_nobody_runs_what_the_image_brings(armed: Attack) -> None:
    container = armed.start("sleep", "600", User="bob:extra", host={"GroupAdd": ["extra"]})
    api = armed.engine.api
    assert armed.exec(container, "busybox", "id", User="bob").status == 0
    assert api("GET", f"/containers/{container}/top?{urlencode({'ps_args': 'aux'})}").status == 200
    for magic in MAGICS:
        for body in (magic, magic + bytes(600)):
            put(armed, container, body)
    for path in ("archive?path=/etc", "export", "changes", "stats?stream=0"):
        api("GET", f"/containers/{container}/{path}")
    api("POST", f"/commit?container={container}&repo=marked")
    assert api("POST", f"/containers/{container}/restart?t=0").status == 204
    assert not marker(armed, container)
    for pid in filter(None, map(armed.engine.pid, ("api", "manager", "supervisor", "registry"))):
        assert str(armed.engine.instance.data / "snapshots") not in Path(f"/proc/{pid}/maps").read_text()


def put(attack: Attack, container: str, body: bytes) -> None:
    """PUT archive, as `docker cp` does."""
    post(attack.engine, f"/containers/{container}/archive?path=/tmp", body, method="PUT")


def test_the_traps_work(armed: Attack) -> None:
    """The control: a tool that is run leaves its mark."""
    container = armed.start("sleep", "600")
    assert not marker(armed, container)
    assert armed.exec(container, "/usr/bin/ps").status == 0
    assert marker(armed, container)


def test_the_library_works(tmp_path: Path) -> None:
    """The control for libraries: whoever loads it writes into his root; here one that nobody else sees."""
    place = tmp_path / "mark.so"
    place.write_bytes(library(tmp_path))
    script = (
        'mkdir "$0/root" && mount -t tmpfs tmpfs "$0/root" && for d in usr lib lib64 bin; do mkdir "$0/root/$d"; '
        'mount --rbind "/$d" "$0/root/$d"; done; cp "$0/mark.so" "$0/root/"; '
        'LD_PRELOAD=/mark.so chroot "$0/root" /bin/true; cat "$0/root/marker"'
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert "library" in done.stdout, done.stderr
