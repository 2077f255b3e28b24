"""One shim per container: it owns the container's stdio, log, exit status; everybody else may die.

A lean single-threaded process on an epoll loop (`loop`). The control road is ttrpc on shim.sock
(`servicer`), the data road stdio.sock (`door`). `task` is the container, `execs` are the others.
"""
