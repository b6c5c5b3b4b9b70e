CREATE TABLE tenants (
  tenant TEXT NOT NULL PRIMARY KEY,
  size   INTEGER NOT NULL,
  time   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE objects (
  tenant TEXT NOT NULL,
  kind   TEXT NOT NULL,
  id     TEXT NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
  tenant TEXT NOT NULL,
  seq    INTEGER NOT NULL,
  type   TEXT NOT NULL,
  task   TEXT NOT NULL,
  agent  TEXT NOT NULL,
  raw    BLOB NOT NULL,
  PRIMARY KEY (tenant, seq)
) STRICT;

CREATE INDEX records_task ON records (tenant, task, seq) WHERE task <> '';

CREATE TABLE hashes (
  tenant TEXT NOT NULL,
  idx    INTEGER NOT NULL,
  hash   BLOB NOT NULL,
  PRIMARY KEY (tenant, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
  tenant TEXT NOT NULL,
  size   INTEGER NOT NULL,
  note   BLOB NOT NULL,
  PRIMARY KEY (tenant, size)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  tenant TEXT NOT NULL,
  id     TEXT NOT NULL,
  task   TEXT NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
) STRICT;
