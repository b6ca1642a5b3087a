-- The keystore of the embedded engine, format 1.
--
-- Its own file, in its own directory: so that it can be backed up for days while the event log is backed up for years,
-- and so that a copy of the event log alone opens nothing.
--
-- Clear keys never pass through SQL: SQLite copies values into caches and statements that nobody zeroises. Only the
-- 88-byte wrapped form is bound, and it opens only with a root key that lives in the keyring, a third place.
--
-- Deleted bytes: the connection runs with secure_delete=ON (asserted, it is per connection and off by default in the
-- bundled library), and after a destruction the write-ahead log is overwritten in place ("wash"), never truncated,
-- because truncating hands blocks back to the file system with the keys still in them.

-- One row. The counter tells a restored copy from the present one: the log and the keyring know how far it must be.
create table meta (
    id              integer primary key check (id = 1),
    store           blob    not null check (length(store) = 16),
    format          integer not null,
    created_ms      integer not null,
    applied_erasure integer not null default 0
) strict;

-- Keys that belong to nobody, random, wrapped under the root of their epoch: `subject-map` tags external ids, `cursor`
-- and `idempotency` serve the HTTP layer. They are here, and not derived from the root, because the root changes.
create table secrets (
    name    text    primary key,
    epoch   integer not null,
    kid     blob    not null check (length(kid) = 32),
    wrapped blob    not null check (length(wrapped) = 88)
) strict, without rowid;

-- Shard keys, made when first needed. Shard = first byte of the pseudonym, which is random, so shards are even. 256 of
-- them make the daily epoch job cheap: only shards in which somebody was forgotten get a new key.
create table keks (
    shard   integer primary key check (shard between 0 and 255),
    kek_id  blob    not null check (length(kek_id) = 16),
    epoch   integer not null,
    kid     blob    not null check (length(kid) = 32),
    wrapped blob    not null check (length(wrapped) = 88)
) strict;

-- Where the bytes lie that must be able to vanish. `secure_delete` zeroes what a page gives up, but when SQLite moves rows
-- between pages to balance a tree it can leave a copy of a live row in the unused middle of the old page, and no later
-- DELETE finds that copy. (Measured with keys inline in `deks`: people coming and going in six rounds of 400, and a wash
-- after each: in 5 of 6 runs one or two destroyed keys stood in the main file; with slots in none of 8.) So these rows
-- never move: the
-- row id only grows, which fills pages at the right edge and never splits one; nothing is deleted, which never merges
-- any; and a value is only replaced by one of the same length, which is written over it. Zeros mean: destroyed. A dead
-- slot costs its length for ever, as its tombstone does. The triggers hold what the argument rests on.
create table key_slots (
    slot    integer primary key,
    wrapped blob    not null check (length(wrapped) = 88)
) strict;

create table id_slots (
    slot   integer primary key,
    sealed blob    not null
) strict;

create table subject_slots (
    slot    integer primary key,
    subject blob    not null check (length(subject) = 16)
) strict;

create trigger key_slots_stay before delete on key_slots begin select raise(abort, 'slots are never deleted'); end;
create trigger id_slots_stay before delete on id_slots begin select raise(abort, 'slots are never deleted'); end;
create trigger subject_slots_stay before delete on subject_slots begin select raise(abort, 'slots are never deleted'); end;
create trigger key_slots_lie_still before update on key_slots when new.slot <> old.slot
begin select raise(abort, 'slots are never moved'); end;
create trigger id_slots_lie_still before update on id_slots
when new.slot <> old.slot or length(new.sealed) <> length(old.sealed)
begin select raise(abort, 'slots are never moved'); end;
create trigger subject_slots_lie_still before update on subject_slots when new.slot <> old.slot
begin select raise(abort, 'slots are never moved'); end;

-- The keys. No state column: a row is a usable key, a tombstone is a destroyed one, nothing else exists.
create table deks (
    subject    blob    not null check (length(subject) = 16),
    purpose    text    not null,
    generation integer not null check (generation >= 0),
    kid        blob    not null check (length(kid) = 32),
    slot       integer not null references key_slots (slot),
    primary key (subject, purpose, generation)
) strict, without rowid;

-- Destroyed keys, for ever: nothing may mint a key where an open tombstone stands. `kid` is null when a purpose was
-- forgotten before it ever had a key. `reauthorized` opens the way for the next generation; the row itself stays,
-- because events sealed under the old generation still ask for it.
create table tombstones (
    subject      blob    not null check (length(subject) = 16),
    purpose      text    not null,
    generation   integer not null check (generation >= 0),
    kid          blob    check (kid is null or length(kid) = 32),
    destroyed_ms integer not null,
    erasure      integer not null,
    reauthorized integer not null default 0 check (reauthorized in (0, 1)),
    primary key (subject, purpose, generation)
) strict, without rowid;

-- Pseudonyms whose person is forgotten: present and future purposes alike. Names a random number, not a person.
create table person_tombstones (
    subject             blob    primary key check (length(subject) = 16),
    destroyed_ms        integer not null,
    erasure             integer not null,
    external_id_removed integer not null check (external_id_removed in (0, 1))
) strict, without rowid;

-- People who are known. The slot holds the external id under the person's own `$identity` key, so that it dies with that
-- key in every backup, not only in this file. Through the id it leads from the pseudonym to the tag, hence no column
-- and no index from pseudonym to tag, which would be one more place for the link to linger in.
create table subjects (
    subject blob    primary key check (length(subject) = 16),
    slot    integer not null references id_slots (slot)
) strict, without rowid;

-- From a caller's id to the pseudonym, by a keyed digest of the id. The pseudonym lies in the slot, zeros once the person
-- is forgotten: the tag alone remains, linked to nothing, so that the same id is refused and not silently keyed anew.
-- The row itself never changes. `kind` leaves room for natural keys beside the external id (0).
create table subject_tags (
    kind    integer not null,
    tag     blob    not null check (length(tag) = 32),
    slot    integer not null references subject_slots (slot),
    primary key (kind, tag)
) strict, without rowid;

-- Empty but during a wash, when zeros fill it to overwrite the write-ahead log.
create table wash (
    id  integer primary key,
    pad blob not null
) strict;
