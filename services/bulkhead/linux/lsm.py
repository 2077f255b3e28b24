"""Which security modules this kernel confines processes with."""

from __future__ import annotations

from pathlib import Path


def apparmor_enabled() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        return False


def selinux_enabled() -> bool:
    return Path("/sys/fs/selinux/enforce").exists()
