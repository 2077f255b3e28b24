"""One module per noun: a handler parses, calls one use-case, renders. `table` lists them all."""
