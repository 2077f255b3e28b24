"""Random operations and random deaths for as long as one likes: `make soak TIME=60 SEED=1`, see `__main__`."""
