"""The schema of bulkhead.db, and how older files become this one.

    meta            key, value                         engine id and the like
    containers      id, name (unique), record          record: JSON of model.container.Container
    intents         container_id, operation, data      written before an operation acts, gone when it is done
    execs           id, container_id, record           JSON; gone with their container
    events          sequence, time, type, ...          the durable journal
    images          id = config digest                 config: its own bytes; removed: only containers need it
    image_layers    image_id, position                 base first
    tags            name = canonical repository:tag    what users call images
    repo_digests    repository, digest                 under which manifest digests an image is known
    layers          chain_id                           unpacked directories below snapshots/layers; unsynced_boot:
                                                       the boot whose page cache may still hold them, '' = on disk
    leases          id, kind, subject, expires         what is in flight and must not be collected
    networks        id, name (unique), record          JSON of model.network.NetworkRecord
    volumes         name, record, removed              JSON of model.volume.Volume; removed: its directory must go

`PRAGMA user_version` counts the migrations applied; each entry of MIGRATIONS runs once, in order, in one
transaction. Never edit an entry that has been released: append.
"""

from __future__ import annotations

MIGRATIONS: list[str] = [
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE intents (
        container_id TEXT PRIMARY KEY,
        operation TEXT NOT NULL,
        data BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE execs (
        id TEXT PRIMARY KEY,
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,
        type TEXT NOT NULL,
        action TEXT NOT NULL,
        actor_id TEXT NOT NULL,
        attributes BLOB NOT NULL
    );
    CREATE INDEX events_by_time ON events(time);
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        config BLOB NOT NULL,
        manifest_digest TEXT NOT NULL,
        manifest_media_type TEXT NOT NULL,
        manifest_size INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE image_layers (
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        blob_digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (image_id, position)
    ) WITHOUT ROWID;
    CREATE TABLE tags (
        name TEXT PRIMARY KEY,
        image_id TEXT NOT NULL REFERENCES images(id),
        tagged_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE repo_digests (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE TABLE layers (
        chain_id TEXT PRIMARY KEY,
        diff_id TEXT NOT NULL,
        parent TEXT NOT NULL,
        size INTEGER NOT NULL,
        unsynced_boot TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE leases (
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        expires INTEGER NOT NULL,
        PRIMARY KEY (id, kind, subject)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        record BLOB NOT NULL,
        removed INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
    # A container may be on several networks: `endpoint` and `attachment` became lists.
    """
    CREATE TABLE networks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    UPDATE containers SET record = CAST(json_remove(json_set(
        CAST(record AS TEXT),
        '$.endpoints', CASE
            WHEN json_type(CAST(record AS TEXT), '$.endpoint') = 'object'
                THEN json_array(json_extract(CAST(record AS TEXT), '$.endpoint'))
            WHEN coalesce(json_extract(CAST(record AS TEXT), '$.spec.network_mode'), '') LIKE 'container:%'
                THEN json_array()
            ELSE json_array(json_object('network_name',
                coalesce(nullif(json_extract(CAST(record AS TEXT), '$.spec.network_mode'), ''), 'bridge')))
        END,
        '$.attachments', CASE
            WHEN json_type(CAST(record AS TEXT), '$.attachment') = 'object'
                THEN json_array(json_extract(CAST(record AS TEXT), '$.attachment'))
            ELSE json_array()
        END
    ), '$.endpoint', '$.attachment') AS BLOB);
    """,
    # In a table WITHOUT ROWID rows of some KiB stand in the inner pages as well (https://sqlite.org/withoutrowid.html):
    # six levels for 10,000 containers, three pages written for one record. And a container that goes takes its execs
    # with it: they are found by it, not by a look at those of all.
    """
    CREATE TABLE kept_containers (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    );
    INSERT INTO kept_containers SELECT id, name, record FROM containers;
    CREATE TABLE kept_execs AS SELECT id, container_id, record FROM execs;
    DROP TABLE execs;
    DROP TABLE containers;
    ALTER TABLE kept_containers RENAME TO containers;
    CREATE TABLE execs (
        id TEXT NOT NULL,
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        record BLOB NOT NULL,
        PRIMARY KEY (container_id, id)
    ) WITHOUT ROWID;
    INSERT INTO execs SELECT id, container_id, record FROM kept_execs;
    DROP TABLE kept_execs;
    """,
]
