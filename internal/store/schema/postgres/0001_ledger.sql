CREATE TABLE tenants (
  tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  size   BIGINT NOT NULL,
  time   TEXT COLLATE "C" NOT NULL
);

CREATE TABLE objects (
  tenant TEXT COLLATE "C" NOT NULL,
  kind   TEXT COLLATE "C" NOT NULL,
  id     TEXT COLLATE "C" NOT NULL,
  body   BYTEA NOT NULL,
  PRIMARY KEY (tenant, kind, id)
);

CREATE TABLE records (
  tenant TEXT COLLATE "C" NOT NULL,
  seq    BIGINT NOT NULL,
  type   TEXT COLLATE "C" NOT NULL,
  task   TEXT COLLATE "C" NOT NULL,
  agent  TEXT COLLATE "C" NOT NULL,
  raw    BYTEA NOT NULL,
  PRIMARY KEY (tenant, seq)
);

CREATE INDEX records_task ON records (tenant, task, seq) WHERE task <> '';

CREATE TABLE hashes (
  tenant TEXT COLLATE "C" NOT NULL,
  idx    BIGINT NOT NULL,
  hash   BYTEA NOT NULL,
  PRIMARY KEY (tenant, idx)
);

CREATE TABLE checkpoints (
  tenant TEXT COLLATE "C" NOT NULL,
  size   BIGINT NOT NULL,
  note   BYTEA NOT NULL,
  PRIMARY KEY (tenant, size)
);

CREATE TABLE blobs (
  tenant TEXT COLLATE "C" NOT NULL,
  id     TEXT COLLATE "C" NOT NULL,
  task   TEXT COLLATE "C" NOT NULL,
  sealed BYTEA NOT NULL,
  PRIMARY KEY (tenant, id)
);
