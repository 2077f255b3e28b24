"""What the C core does to files for whoever owns a bundle or a root file system, and launches nothing."""

from __future__ import annotations

from bulkhead.nsexec import empty_directory, is_new_directory, write_files

__all__ = ["empty_directory", "is_new_directory", "write_files"]
