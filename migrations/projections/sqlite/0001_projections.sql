-- Rows of projections and snapshots of folds: everything in this file can be computed again from the event log, so the
-- file may be removed while the server is stopped. It belongs to the event log's domain (ciphertext only) and lies beside
-- it in a file of its own, because SQLite has one writer per file and a rebuild must not hold up appends.

-- Which store these rows were computed from.
create table origin (
  one    integer primary key check (one = 1),
  store  blob not null check (length(store) = 16)
) strict;

-- One computation of a definition: the live one that answers, and at most one shadow that is being built. `cursor` is the
-- next position to look at; it moves in the same transaction as the rows.
create table generations (
  id       integer primary key,
  name     text not null,
  version  integer not null,
  digest   blob not null check (length(digest) = 32),
  state    text not null check (state in ('live', 'shadow', 'trial', 'dropped')),
  cursor   integer not null,
  began_ms integer not null
) strict;
create unique index generations_live on generations(name) where state = 'live';
create unique index generations_shadow on generations(name) where state = 'shadow';

-- The rows. `parts` is the public key; `doc` has `null` wherever a cell has owners; `sealed` holds those cells.
create table projection_rows (
  id          integer primary key,
  generation  integer not null,
  key         blob not null check (length(key) = 16),
  parts       text not null,
  doc         text not null,
  sealed      blob,
  position    integer not null
) strict;
create unique index projection_rows_by_key on projection_rows(generation, key);

-- Who owns a cell of which row: what an erasure has to look at.
create table row_owners (
  generation  integer not null,
  subject     blob not null check (length(subject) = 16),
  key         blob not null,
  primary key (generation, subject, key)
) strict, without rowid;

-- Declared orders over public values. A value that is sealed is entered as "sealed", never as itself.
create table row_index (
  generation  integer not null,
  number      integer not null,
  entry       blob not null,
  key         blob not null,
  primary key (generation, number, entry, key)
) strict, without rowid;

-- Timers that have not gone off.
create table row_timers (
  generation  integer not null,
  key         blob not null,
  at_ms       integer not null,
  primary key (generation, key)
) strict, without rowid;
create index row_timers_by_time on row_timers(generation, at_ms);

-- Events that could not be handled and were put aside: where and why, never what.
create table parked_events (
  generation  integer not null,
  position    integer not null,
  code        text not null,
  message     text not null,
  primary key (generation, position)
) strict, without rowid;

-- The latest snapshot of a fold per stream.
create table snapshots (
  name      text not null,
  digest    blob not null,
  stream    text not null,
  revision  integer not null,
  position  integer not null,
  doc       text not null,
  sealed    blob,
  primary key (name, stream)
) strict, without rowid;
create table snapshot_owners (
  subject  blob not null,
  name     text not null,
  stream   text not null,
  primary key (subject, name, stream)
) strict, without rowid;
create index snapshot_owners_by_stream on snapshot_owners(name, stream);
