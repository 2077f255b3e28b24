"""The manager's gRPC edge: message in, use-case, message out."""
