"""The Engine API daemon: Docker's HTTP API, translated to the manager's RPCs and the shims' sockets. No state."""
