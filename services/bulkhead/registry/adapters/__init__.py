"""Where the registry keeps things: one module per kind of storage."""
