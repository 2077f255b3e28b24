"""Messages between processes, and nothing that thinks."""
