CREATE TABLE tenants (
  number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY CHECK (number < 4194304),
  tenant TEXT COLLATE "C" NOT NULL UNIQUE,
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
  place  BIGINT NOT NULL PRIMARY KEY,
  type   TEXT COLLATE "C" NOT NULL,
  task   TEXT COLLATE "C" NOT NULL,
  agent  TEXT COLLATE "C" NOT NULL,
  first  BIGINT NOT NULL,
  hashes BYTEA NOT NULL,
  raw    BYTEA NOT NULL
);

CREATE INDEX records_first ON records (task, place) WHERE first = 1;

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
