"""The registry service: OCI distribution over HTTP. It knows nothing of the engine."""
