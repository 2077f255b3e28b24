"""Pull-through: other registries' repositories, served from a cache that fills as they are asked for."""
