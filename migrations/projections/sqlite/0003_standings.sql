-- What processes that do not compute projections themselves have to know of those that are computed elsewhere. One process
-- computes; every process answers queries. Nothing here is needed to go on after a restart. On SQLite there is one process,
-- and these tables stay empty; they are part of the format.

-- How a generation stands, as the process that computes it says. `again` counts requests to try again, made anywhere.
create table standings (
  generation  integer primary key,
  state       text not null,
  rate        integer not null,
  position    integer,
  code        text,
  message     text,
  again       integer not null default 0
) strict;

-- Keys of the rows that a batch changed, 16 bytes each, for those who follow rows live on other processes. Kept for a minute.
create table row_changes (
  generation  integer not null,
  cursor      integer not null,
  keys        blob not null,
  at_ms       integer not null,
  primary key (generation, cursor)
) strict;
create index row_changes_by_time on row_changes(at_ms);
