"""Volumes: their records, their directories, what is mounted for them and what an image puts into them."""
