"""Tests on a kernel with all cgroup v2 controllers, booted for them in qemu: `make test-v2` (machine.py)."""
