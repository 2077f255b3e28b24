"""What the API reaches: the manager by gRPC, shims by their sockets, log files."""
