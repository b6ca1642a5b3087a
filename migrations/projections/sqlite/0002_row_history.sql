-- Former versions of rows, of projections that keep them. A version stands from `since`, the position of the event that
-- made it, until before `until`, the position of the event that changed or removed the row; `until_ms` is when that one
-- was recorded. The other columns are those of the row as it was, and sealed as it was: what a forgotten person leaves
-- in them goes as it does in rows.
create table row_versions (
  id          integer primary key,
  generation  integer not null,
  key         blob not null check (length(key) = 16),
  since       integer not null,
  until       integer not null check (until > since),
  until_ms    integer not null,
  parts       text not null,
  doc         text not null,
  sealed      blob
) strict;
create unique index row_versions_by_key on row_versions(generation, key, since);
create index row_versions_by_end on row_versions(generation, until_ms);

-- Who owns a cell of which version, or stands in its key: the person may be in no row any more.
create table version_owners (
  generation  integer not null,
  key         blob not null,
  since       integer not null,
  subject     blob not null check (length(subject) = 16),
  primary key (generation, key, since, subject)
) strict, without rowid;
create index version_owners_by_subject on version_owners(generation, subject, key, since);

-- When the newest event that a generation has handled was recorded: how long versions are kept is counted from there.
create table row_history (
  generation  integer primary key,
  newest_ms   integer not null
) strict;
