"""Hands out shims: a warm, single-threaded zygote forks them, spares wait, and none of them needs us afterwards."""
