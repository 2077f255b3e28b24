"""An engine whose containers have users of their own (`[manager] userns_remap`)."""

from __future__ import annotations

from pathlib import Path

FIRST, COUNT = 231_072, 65_536
# Somebody who is on every machine, and whose subordinate ids only this file grants.
USER = "daemon"


def remapping_config(directory: Path, *, setting: str = USER) -> Path:
    """A config file with that setting, beside files like /etc/subuid and /etc/subgid."""
    for name in ("subuid", "subgid"):
        (directory / name).write_text(f"{USER}:{FIRST}:{COUNT}\n")
    lines = (
        "[manager]",
        f'userns_remap = "{setting}"',
        f'subuid_file = "{directory}/subuid"',
        f'subgid_file = "{directory}/subgid"',
    )
    config = directory / "config.toml"
    config.write_text("\n".join(lines) + "\n")
    return config
