"""What the rows are held to: the project's budgets, and how many times better than a peer they have to be.

Taken from the design's section on speed, and from the issue that made it binding.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`budget` in the row's unit; `ratio` against `peer`."""

    budget: float | None = None
    ratio: float | None = None
    peer: str = "dockerd"


GOALS = {
    "create+start+wait+remove, none [ms]": Goal(budget=10, ratio=15),
    "create+start+wait+remove, bridge [ms]": Goal(budget=13, ratio=18),
    "exec true, attached [ms]": Goal(budget=5, ratio=8),
    "8 clients, none [containers/s]": Goal(budget=120, ratio=12),
    "8 clients, bridge [containers/s]": Goal(ratio=12),
    "memory per container [KiB]": Goal(budget=1000, ratio=2.5),
    "memory of the idle stack [MiB]": Goal(budget=160),
    "runtime core, create to reaped [ms]": Goal(budget=8),
    "runtime command, run, seccomp [ms]": Goal(budget=25),
    "log write [MB/s]": Goal(budget=200, ratio=4),
    "log read [MB/s]": Goal(budget=100),
    "inspect [ms]": Goal(budget=1),
    "pull+unpack, debian [s]": Goal(budget=0.9),
    "pull+unpack, 20,000 files [s]": Goal(budget=0.9),
    "registry blob GET, 8 clients [MB/s]": Goal(budget=2500, ratio=1, peer="docker-registry"),
    "registry blob GET, 1 client [MB/s]": Goal(ratio=1, peer="docker-registry"),
    "registry blob PUT, 1 client [MB/s]": Goal(budget=400, ratio=1, peer="docker-registry"),
    "registry manifest GET by tag, 1 client [req/s]": Goal(ratio=1, peer="docker-registry"),
    "registry manifest GET by tag, 32 clients [req/s]": Goal(budget=8000, ratio=1, peer="docker-registry"),
    "registry manifest GET by digest, 32 clients [req/s]": Goal(ratio=1, peer="docker-registry"),
    "start of api to ready [s]": Goal(budget=0.5),
    "start of manager to ready [s]": Goal(budget=0.5),
    "start of supervisor to ready [s]": Goal(budget=0.5),
    "start of registry to ready [s]": Goal(budget=0.5),
    "make up on a built tree [s]": Goal(budget=3),
}
