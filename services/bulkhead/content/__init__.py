"""Content by digest: blobs, manifests, layers, archives and the registry protocol's client.

Shared by the manager and the registry; knows neither.
"""
