CREATE TABLE tenants (
  number INTEGER NOT NULL PRIMARY KEY CHECK (number < 4194304),
  tenant TEXT NOT NULL UNIQUE,
  size   INTEGER NOT NULL,
  time   TEXT NOT NULL
) STRICT;

CREATE TABLE objects (
  tenant TEXT NOT NULL,
  kind   TEXT NOT NULL,
  id     TEXT NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
  place  INTEGER NOT NULL PRIMARY KEY,
  type   TEXT NOT NULL,
  task   TEXT NOT NULL,
  agent  TEXT NOT NULL,
  first  INTEGER NOT NULL,
  hashes BLOB NOT NULL,
  raw    BLOB NOT NULL
) STRICT;

CREATE INDEX records_first ON records (task, place) WHERE first = 1;

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
