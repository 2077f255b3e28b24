"""The images that a fresh installation's registry holds: `hello-world` and `busybox`, made here.

hello-world is a C program of our own, compiled when it is needed; busybox is the machine's own
static binary. Both are the same bytes each time, so their digests do not change.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bulkhead.ctl.seed.images import Image, Tree, image_of
from bulkhead.ctl.seed.push import has_tag, push
from bulkhead.errors import NotFound, Unavailable

BUSYBOX_PATHS = (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/bin/busybox.static"))
_SOURCE = Path(__file__).with_name("hello.c")
_STATIC = ("-static", "-Os", "-s", "-Wl,--build-id=none")
_USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUPS = "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"


def seed(registry: str) -> Iterator[str]:
    """Put the images into `registry` (host:port) unless their tags exist; one line of report for each.

    Raises Unavailable when the registry cannot be reached or refuses a push.
    """
    makers: dict[str, Callable[[], Image]] = {"hello-world": hello_world, "busybox": busybox}
    for name, make in makers.items():
        repository = f"library/{name}"
        if has_tag(registry, repository, "latest"):
            yield f"{name}:latest is there already"
            continue
        try:
            image = make()
        except NotFound as missing:
            yield f"{name}:latest left out: {missing}"
            continue
        push(registry, repository, "latest", image)
        yield f"{name}:latest pushed, {image.manifest_digest[:19]}"


def hello_world() -> Image:
    """An image of one static program. Raises NotFound when no C compiler is there."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotFound("no C compiler on this machine (install gcc and the C library's static files)")
    with tempfile.TemporaryDirectory(prefix="bulkhead-seed-") as directory:
        program = Path(directory, "hello")
        built = subprocess.run(
            [compiler, *_STATIC, "-o", program, _SOURCE], capture_output=True, text=True, check=False
        )
        if built.returncode != 0:
            raise NotFound(f"hello.c cannot be compiled: {built.stderr.strip().splitlines()[-1:]}")
        return image_of(Tree().file("hello", program.read_bytes(), mode=0o755), command=["/hello"])


def busybox() -> Image:
    """The machine's static busybox as an image with all its applets. Raises NotFound when there is none."""
    binary = static_busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return image_of(busybox_tree(binary.read_bytes(), applets), command=["sh"])


def static_busybox() -> Path:
    """Where this machine has a static busybox; NotFound tells what to install."""
    for path in BUSYBOX_PATHS:
        # A dynamic program names its loader; it could not run in an image without one.
        if path.is_file() and b"/ld-linux" not in (head := path.read_bytes()[:4096]) and b"/ld-musl" not in head:
            return path
    raise NotFound("no static busybox on this machine (install busybox-static)")


def busybox_tree(binary: bytes, applets: list[str]) -> Tree:
    """A small userland: the applets as hard links in /bin, and what a shell expects to find."""
    tree = Tree()
    for name, mode in {"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o755, "root": 0o700}.items():
        tree.directory(name, mode)
    for name, mode in {"sys": 0o755, "tmp": 0o1777, "usr": 0o755, "var": 0o755, "var/www": 0o755}.items():
        tree.directory(name, mode)
    tree.file("bin/busybox", binary, mode=0o755)
    for applet in sorted(set(applets) - {"busybox"}):
        tree.hardlink(f"bin/{applet}", "bin/busybox")
    tree.symlink("usr/bin", "../bin").symlink("usr/sbin", "../bin").symlink("sbin", "bin")
    return tree.file("etc/passwd", _USERS.encode()).file("etc/group", _GROUPS.encode())


__all__ = ["Unavailable", "busybox", "busybox_tree", "hello_world", "seed", "static_busybox"]
