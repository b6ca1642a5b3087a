-- The event log on PostgreSQL. Several nodes write; each batch locks the one row of `head` from its first read to its
-- commit, so whole batches of different nodes follow one another. Positions are given from that row, never by a sequence:
-- a sequence leaves holes when a transaction is undone and shows later numbers before earlier ones, and here a hole is
-- evidence that an event was removed.
--
-- Same number, same tables, same columns, same meaning as on SQLite. Other here: the types; texts sort by bytes
-- (`collate "C"`), whatever the database was made with; and there are no foreign keys from events and footprints to streams and
-- names. A foreign key costs a lookup and a row lock per event and column; the numbers come from rows that were read or
-- inserted in the same transaction under the lock of `head`, and those rows can be neither changed nor removed.

-- One row: which store this is, where the log ends, and the edge of its Merkle tree (RFC 6962), so that a new root
-- costs O(log n) and is durable in the same transaction as its leaves. Written with every batch: the page has room for new
-- versions of the row, so that no index is ever touched.
create table head (
  one            bigint primary key check (one = 1),
  format         bigint not null,
  store          bytea not null check (octet_length(store) = 16),
  next_position  bigint not null,
  recorded_ms    bigint not null,
  erasure_epoch  bigint not null,
  frontier       bytea not null
) with (fillfactor = 10);

-- Categories, event types and purposes, interned: a few thousand rows that every event refers to by number.
create table names (
  id    bigint primary key,
  text  text collate "C" not null unique
);

-- A stream's name is an alias of a random id: leaves bind the id, so that a name can be unlinked one day.
create table streams (
  id        bigint primary key,
  stream    bytea not null check (octet_length(stream) = 16),
  name      text collate "C" not null unique,
  category  bigint not null
);

-- The events. `public` is canonical JSON with `null` where personal values were, `sealed` the envelopes beside it.
-- `salts` hides the commitments of metadata and public part and can be destroyed; `commitments` and `leaf` cannot.
create table events (
  position        bigint primary key,
  event_id        bytea not null check (octet_length(event_id) = 16),
  stream          bigint not null,
  revision        bigint not null,
  type            bigint not null,
  category        bigint not null,
  schema_version  bigint not null,
  recorded_ms     bigint not null,
  caller_id       bigint not null,
  meta            text collate "C" not null,
  public          text collate "C" not null,
  salts           bytea,
  commitments     bytea not null,
  sealed          bytea,
  leaf            bytea not null check (octet_length(leaf) = 32)
);
-- Ciphertext and hashes do not compress; trying costs time.
alter table events alter column sealed set storage external;
alter table events alter column commitments set storage external;

-- The safety net under the writer's check of expected revisions.
create unique index events_by_stream on events(stream, revision);
-- Only ids that callers chose can come twice; ids of ours are left out, which keeps a random index page per event away.
create unique index events_by_caller_id on events(stream, event_id) where caller_id = 1;
-- Few categories and types: these grow at a handful of right edges and cost little.
create index events_by_category on events(category, position);
create index events_by_type on events(type, position);

-- The footprint: which slots of which events belong to whom. `slot` is -1 where the event only names the person.
-- Preview, export, erasure and verification all select by this table, so they cannot disagree.
create table footprint (
  subject     bytea not null check (octet_length(subject) = 16),
  position    bigint not null,
  slot        bigint not null,
  purpose     bigint not null,
  generation  bigint not null,
  primary key (subject, position, slot)
);

-- What may no longer be read or appended. `purpose` is '*' for the whole person. A fence covers every generation up to
-- `generation`; a re-authorised purpose continues with the next one.
create table fences (
  subject       bytea not null check (octet_length(subject) = 16),
  purpose       text collate "C" not null,
  generation    bigint not null,
  reauthorized  bigint not null default 0,
  state         text not null check (state in ('erased', 'expired', 'restricted')),
  basis         text not null,
  request       text not null,
  at_ms         bigint not null,
  epoch         bigint not null,
  primary key (subject, purpose)
);

-- The erasure record: dense numbers, hash-chained; the keystore and the keyring remember the last number they applied.
create table erasures (
  number        bigint primary key,
  request       text collate "C" not null,
  subject       bytea not null check (octet_length(subject) = 16),
  scope         text not null,
  basis         text not null,
  fenced_ms     bigint not null,
  completed_ms  bigint,
  digest        bytea not null check (octet_length(digest) = 32)
);
create unique index erasures_by_request on erasures(request);

-- Where each forget request stands: a fold of its `$erasure-…` stream, kept in the same transaction as its events.
create table forget_requests (
  id        text collate "C" primary key,
  subject   bytea not null,
  status    text collate "C" not null,
  position  bigint not null,
  due_ms    bigint not null
);
create index forget_requests_by_status on forget_requests(status, due_ms);

-- Replies to remember for 24 hours: keyed digests and positions, never a body.
create table idempotency (
  key         bytea primary key check (octet_length(key) = 32),
  request     bytea not null check (octet_length(request) = 32),
  positions   text not null,
  expires_ms  bigint not null
);
create index idempotency_by_expiry on idempotency(expires_ms);

-- Who saw whose data: the first personal read of a (principal, purpose, data subject) in a minute, before its first
-- byte left. No values, no external ids. Numbered under the lock of `head`, so that numbers grow in the order of commits.
create table access_log (
  id         bigint primary key,
  at_ms      bigint not null,
  principal  text not null,
  purpose    text not null,
  subject    bytea not null,
  route      text not null,
  fields     bigint not null,
  reason     text not null,
  request    text not null
);
create index access_log_by_subject on access_log(subject, id);

-- Invariant 3: history does not change. What may change is named column by column: ciphertext may be replaced or
-- removed, the salts may be destroyed; nothing else, and nothing is ever deleted.
create function refuse() returns trigger language plpgsql as $$
begin raise exception '%', tg_argv[0]; end $$;

create trigger events_keep before update on events for each row
when (new.position is distinct from old.position or new.event_id is distinct from old.event_id
  or new.stream is distinct from old.stream or new.revision is distinct from old.revision
  or new.type is distinct from old.type or new.category is distinct from old.category
  or new.schema_version is distinct from old.schema_version or new.recorded_ms is distinct from old.recorded_ms
  or new.caller_id is distinct from old.caller_id or new.meta is distinct from old.meta
  or new.public is distinct from old.public or new.commitments is distinct from old.commitments
  or new.leaf is distinct from old.leaf or (new.salts is distinct from old.salts and new.salts is not null))
execute function refuse('events are immutable');
create trigger events_stay before delete or truncate on events for each statement
execute function refuse('events are immutable');
create trigger streams_keep before update on streams for each row
when (new.id is distinct from old.id or new.stream is distinct from old.stream or new.category is distinct from old.category)
execute function refuse('streams are immutable');
create trigger streams_stay before delete or truncate on streams for each statement
execute function refuse('streams are immutable');
create trigger names_keep before update or delete or truncate on names for each statement
execute function refuse('names are immutable');
-- Complete is said once and not taken back.
create trigger erasures_keep before update on erasures for each row
when (new.number is distinct from old.number or new.request is distinct from old.request
  or new.subject is distinct from old.subject or new.scope is distinct from old.scope
  or new.basis is distinct from old.basis or new.fenced_ms is distinct from old.fenced_ms
  or new.digest is distinct from old.digest or old.completed_ms is not null)
execute function refuse('the erasure record is immutable');
create trigger erasures_stay before delete or truncate on erasures for each statement
execute function refuse('the erasure record is immutable');
-- A fence never covers less than it did.
create trigger fences_keep before update on fences for each row
when (new.subject is distinct from old.subject or new.purpose is distinct from old.purpose
  or new.generation < old.generation)
execute function refuse('fences stay');
create trigger fences_stay before delete or truncate on fences for each statement
execute function refuse('fences stay');
create trigger access_log_keep before update or truncate on access_log for each statement
execute function refuse('the access log is immutable');
create trigger footprint_stay before update or delete or truncate on footprint for each statement
execute function refuse('the footprint is immutable');

-- The fence, in the same statement as the insert: whatever the writer believed, no slot of a forgotten person lands.
--
-- Both sides take the lock of `head`: who sets a fence, and who writes a slot. Without it a fence that is set but not
-- committed would be invisible to the check and could commit first all the same (measured with check and insert as two
-- steps: 14 of 3,384 forgets were followed by an event). The check runs after the lock is held, and in read committed it
-- sees what was committed until then. Joins are by index: the planner knows nothing of the rows that were just added.
create function lock_head() returns trigger language plpgsql set search_path from current as $$
begin perform 1 from head for update; return null; end $$;
create trigger fences_in_turn before insert or update on fences for each statement execute function lock_head();

create function fence_holds() returns trigger language plpgsql
set search_path from current set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off as $$
begin
  perform 1 from head for update;
  if exists (
    select 1 from added a join names n on n.id = a.purpose
    join fences f on f.subject = a.subject and f.purpose in ('*', n.text) and a.generation <= f.generation
    where a.slot >= 0)
  then raise exception 'data-subject-erased'; end if;
  return null;
end $$;
create trigger footprint_fenced after insert on footprint referencing new table as added for each statement
execute function fence_holds();
