"""What the manager's ports are made of: SQLite, shims, netlink, overlay directories."""
