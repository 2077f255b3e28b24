from collections.abc import Sequence

STEPS: tuple[str, ...]
FAILPOINTS: tuple[str, ...]

class SpawnError(Exception):
    """args: errno, text, index into STEPS."""

def prepare() -> None: ...
def spawn(
    plan: bytes,
    clone_flags: int,
    cgroup_fd: int,
    stdio: tuple[int, int, int],
    extra_fds: Sequence[int],
    task_fds: Sequence[int],
    failpoints: bytes = b"",
    /,
) -> tuple[int, int, int]: ...
def check_plan(plan: bytes, /) -> bool: ...
def share_memory() -> int: ...
def give_back_memory() -> int: ...
def written_memory() -> bytes: ...
def copy_memory(pages: bytes, /) -> None: ...
