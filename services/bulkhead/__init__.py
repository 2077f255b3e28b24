"""Bulkhead: a container engine for Linux whose containers outlive its daemons."""

__version__ = "0.1.0"
