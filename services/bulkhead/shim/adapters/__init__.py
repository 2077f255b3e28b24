"""The shim's ports, on the real machine."""
