"""The command `bulkhead-runtime`: runc's contract for whoever drives an OCI runtime by its command line.

arguments  options of each verb        logs        what shims and conmon read back
verbs      verb -> function            lifecycle   create, start, run, kill, delete, pause, resume
execs      further processes           foreground  terminal and signals of an attached process
terminals  consoles handed over        figures     events        reports  state, list, ps
resources  update                      spec        default config.json, features

A verb's module is imported when the verb is asked for: start-up is most of what a short container costs.
"""
