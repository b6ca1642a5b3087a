-- What processes that do not compute projections themselves have to know of those that are computed elsewhere. One process
-- computes; every process answers queries. Nothing here is needed to go on after a restart.

-- How a generation stands, as the process that computes it says. `again` counts requests to try again, made anywhere.
create table standings (
  generation  bigint primary key,
  state       text not null,
  rate        bigint not null,
  position    bigint,
  code        text,
  message     text,
  again       bigint not null default 0
);

-- Keys of the rows that a batch changed, 16 bytes each, for those who follow rows live on other processes. Kept for a minute.
create table row_changes (
  generation  bigint not null,
  cursor      bigint not null,
  keys        bytea not null,
  at_ms       bigint not null,
  primary key (generation, cursor)
);
create index row_changes_by_time on row_changes(at_ms);
