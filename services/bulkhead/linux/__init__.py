"""Doors to the kernel: thin, typed, raising OSError. Standard library only."""
