"""What the API asks of the rest of the engine, and in which shapes it gets the answers.

Every method raises errors of `bulkhead.errors`; `Unavailable` names the service that is away. `ref` is a full
id, a name or a unique id prefix. Times are Unix nanoseconds, 0 = never.
"""
