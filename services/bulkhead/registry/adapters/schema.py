"""The registry's metadata, drawn: what SQLite holds beside the objects.

`touched` is the lease: whoever asked for, mounted or pushed something found it then, and nothing that was
touched within the grace is collected. Times are seconds since the epoch. A blob's bytes lie in the object
`key`, whose name is not the digest: deleting the old bytes of a digest never meets pushing it anew.
"""

from __future__ import annotations

_FIRST = """
CREATE TABLE repositories (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    listed INTEGER NOT NULL DEFAULT 0           -- had a manifest: it is in the catalogue
);
CREATE TABLE blobs (                            -- manifests' bytes are blobs too
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    key TEXT NOT NULL UNIQUE,
    touched REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE links (                            -- which repository shows which blob
    repository INTEGER NOT NULL REFERENCES repositories,
    digest TEXT NOT NULL REFERENCES blobs,
    touched REAL NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX links_by_digest ON links (digest);
CREATE TABLE manifests (
    repository INTEGER NOT NULL REFERENCES repositories,
    digest TEXT NOT NULL REFERENCES blobs,
    media_type TEXT NOT NULL,
    subject TEXT,                               -- need not exist
    artifact_type TEXT NOT NULL,
    annotations TEXT NOT NULL,                  -- JSON
    pushed REAL NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX manifests_by_digest ON manifests (digest);
CREATE INDEX manifests_by_subject ON manifests (repository, subject) WHERE subject IS NOT NULL;
CREATE TABLE edges (                            -- what a manifest needs
    repository INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    child TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('blob', 'manifest')),
    PRIMARY KEY (repository, manifest, child, kind),
    FOREIGN KEY (repository, manifest) REFERENCES manifests ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX edges_by_child ON edges (repository, child);
CREATE TABLE tags (
    repository INTEGER NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (repository, tag),
    FOREIGN KEY (repository, digest) REFERENCES manifests ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX tags_by_digest ON tags (repository, digest);
CREATE TABLE tombstones (                       -- objects to delete, when no reader can still need them
    key TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    not_before REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE dirty (                            -- repositories whose record in the store is behind
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;
"""

# Landed migrations are frozen: a change of the schema is one more script.
MIGRATIONS = (_FIRST,)
