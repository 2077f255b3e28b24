"""The domain: frozen types and pure functions. Standard library only, no I/O."""
