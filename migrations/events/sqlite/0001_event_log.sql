-- The event log on SQLite. One writer connection; readers see snapshots.
-- Positions are given by the writer from `head`, never by a sequence, so they are dense and commit-ordered.

-- One row: which store this is, where the log ends, and the edge of its Merkle tree (RFC 6962), so that a new root
-- costs O(log n) and is durable in the same transaction as its leaves.
create table head (
  one            integer primary key check (one = 1),
  format         integer not null,
  store          blob not null check (length(store) = 16),
  next_position  integer not null,
  recorded_ms    integer not null,
  erasure_epoch  integer not null,
  frontier       blob not null
) strict;

-- Categories, event types and purposes, interned: a few thousand rows that every event refers to by number.
create table names (
  id    integer primary key,
  text  text not null unique
) strict;

-- A stream's name is an alias of a random id: leaves bind the id, so that a name can be unlinked one day.
create table streams (
  id        integer primary key,
  stream    blob not null check (length(stream) = 16),
  name      text not null unique,
  category  integer not null references names(id)
) strict;

-- The events. `public` is canonical JSON with `null` where personal values were, `sealed` the envelopes beside it.
-- `salts` hides the commitments of metadata and public part and can be destroyed; `commitments` and `leaf` cannot.
create table events (
  position        integer primary key,
  event_id        blob not null check (length(event_id) = 16),
  stream          integer not null references streams(id),
  revision        integer not null,
  type            integer not null references names(id),
  category        integer not null references names(id),
  schema_version  integer not null,
  recorded_ms     integer not null,
  caller_id       integer not null,
  meta            text not null,
  public          text not null,
  salts           blob,
  commitments     blob not null,
  sealed          blob,
  leaf            blob not null check (length(leaf) = 32)
) strict;

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
  subject     blob not null check (length(subject) = 16),
  position    integer not null,
  slot        integer not null,
  purpose     integer not null references names(id),
  generation  integer not null,
  primary key (subject, position, slot)
) strict, without rowid;

-- What may no longer be read or appended. `purpose` is '*' for the whole person. A fence covers every generation up to
-- `generation`; a re-authorised purpose continues with the next one.
create table fences (
  subject       blob not null check (length(subject) = 16),
  purpose       text not null,
  generation    integer not null,
  reauthorized  integer not null default 0,
  state         text not null check (state in ('erased', 'expired', 'restricted')),
  basis         text not null,
  request       text not null,
  at_ms         integer not null,
  epoch         integer not null,
  primary key (subject, purpose)
) strict, without rowid;

-- The erasure record: dense numbers, hash-chained; the keystore and the keyring remember the last number they applied.
create table erasures (
  number        integer primary key,
  request       text not null,
  subject       blob not null check (length(subject) = 16),
  scope         text not null,
  basis         text not null,
  fenced_ms     integer not null,
  completed_ms  integer,
  digest        blob not null check (length(digest) = 32)
) strict;
create unique index erasures_by_request on erasures(request);

-- Where each forget request stands: a fold of its `$erasure-…` stream, kept in the same transaction as its events.
create table forget_requests (
  id        text primary key,
  subject   blob not null,
  status    text not null,
  position  integer not null,
  due_ms    integer not null
) strict, without rowid;
create index forget_requests_by_status on forget_requests(status, due_ms);

-- Replies to remember for 24 hours: keyed digests and positions, never a body.
create table idempotency (
  key         blob primary key check (length(key) = 32),
  request     blob not null check (length(request) = 32),
  positions   text not null,
  expires_ms  integer not null
) strict, without rowid;
create index idempotency_by_expiry on idempotency(expires_ms);

-- Who saw whose data: the first personal read of a (principal, purpose, data subject) in a minute, before its first
-- byte left. No values, no external ids.
create table access_log (
  id         integer primary key,
  at_ms      integer not null,
  principal  text not null,
  purpose    text not null,
  subject    blob not null,
  route      text not null,
  fields     integer not null,
  reason     text not null,
  request    text not null
) strict;
create index access_log_by_subject on access_log(subject, id);

-- Invariant 3: history does not change. What may change is named column by column: ciphertext may be replaced or
-- removed, the salts may be destroyed; nothing else, and nothing is ever deleted.
create trigger events_keep before update on events
when new.position is not old.position or new.event_id is not old.event_id or new.stream is not old.stream
  or new.revision is not old.revision or new.type is not old.type or new.category is not old.category
  or new.schema_version is not old.schema_version or new.recorded_ms is not old.recorded_ms
  or new.caller_id is not old.caller_id or new.meta is not old.meta or new.public is not old.public
  or new.commitments is not old.commitments or new.leaf is not old.leaf
  or (new.salts is not old.salts and new.salts is not null)
begin select raise(abort, 'events are immutable'); end;
create trigger events_stay before delete on events begin select raise(abort, 'events are immutable'); end;
create trigger streams_keep before update of id, stream, category on streams
begin select raise(abort, 'streams are immutable'); end;
create trigger streams_stay before delete on streams begin select raise(abort, 'streams are immutable'); end;
create trigger names_keep before update on names begin select raise(abort, 'names are immutable'); end;
create trigger names_stay before delete on names begin select raise(abort, 'names are immutable'); end;
create trigger erasures_keep before update of number, request, subject, scope, basis, fenced_ms, digest on erasures
begin select raise(abort, 'the erasure record is immutable'); end;
create trigger erasures_stay before delete on erasures
begin select raise(abort, 'the erasure record is immutable'); end;
-- Complete is said once and not taken back.
create trigger erasures_done before update of completed_ms on erasures when old.completed_ms is not null
begin select raise(abort, 'the erasure record is immutable'); end;
-- A fence never covers less than it did.
create trigger fences_keep before update on fences
when new.subject is not old.subject or new.purpose is not old.purpose or new.generation < old.generation
begin select raise(abort, 'fences stay'); end;
create trigger fences_stay before delete on fences begin select raise(abort, 'fences stay'); end;
create trigger access_log_keep before update on access_log begin select raise(abort, 'the access log is immutable'); end;

-- The fence, in the same statement as the insert: whatever the writer believed, no slot of a forgotten person lands.
create trigger footprint_fenced before insert on footprint
when new.slot >= 0 and exists (
  select 1 from fences f join names n on n.id = new.purpose
  where f.subject = new.subject and f.purpose in ('*', n.text) and new.generation <= f.generation)
begin select raise(abort, 'data-subject-erased'); end;
create trigger footprint_keep before update on footprint
begin select raise(abort, 'the footprint is immutable'); end;
create trigger footprint_stay before delete on footprint
begin select raise(abort, 'the footprint is immutable'); end;
