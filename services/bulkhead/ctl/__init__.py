"""The operator's command `bulkhead`: starts, stops, shows and removes one installation.

It believes kernel facts (locks, cgroups, sockets) and never the memory of a service, so that it
works when any of them is dead.
"""
