-- The keystore on PostgreSQL, format 1.
--
-- Its own database, best its own cluster: so that it can be backed up for days while the event log is backed up for
-- years, so that its write-ahead log can be archived for as short, and so that a copy of the event log alone opens nothing.
--
-- Clear keys never pass through SQL. Only the 88-byte wrapped form is bound, and it opens only with a root key that lives
-- in the keyring, a third place.
--
-- Deleted bytes: PostgreSQL never writes in place. An update leaves the old version of a row behind until the page is
-- vacuumed, vacuum leaves its bytes in the unused middle of the page, and the write-ahead log has all of it. Hence:
-- what must be able to vanish lies in slot tables, inline (`storage plain`: no TOAST table, no compression) and without an
-- index on it; a destruction overwrites with zeros first; the wash then vacuums these tables, and rewrites them while they
-- are small; and the write-ahead log is switched, so that its segments are recycled. What was archived, replicated or backed
-- up opens nothing any more once the root key of its epoch is gone: that, not this file, is the guarantee for copies.
--
-- Writers lock the row of `meta` before they look: whole batches of different nodes follow one another, so that nobody
-- makes a key beside a tombstone that is about to be set, and numbers of slots come from the table itself, not from a sequence.

-- One row. The counter tells a restored copy from the present one: the log and the keyring know how far it must be.
create table meta (
    id              bigint primary key check (id = 1),
    store           bytea  not null check (octet_length(store) = 16),
    format          bigint not null,
    created_ms      bigint not null,
    applied_erasure bigint not null default 0
);

-- Keys that belong to nobody, random, wrapped under the root of their epoch: `subject-map` tags external ids, `cursor`
-- and `idempotency` serve the HTTP layer. They are here, and not derived from the root, because the root changes.
create table secrets (
    name    text   collate "C" primary key,
    epoch   bigint not null,
    kid     bytea  not null check (octet_length(kid) = 32),
    wrapped bytea  not null check (octet_length(wrapped) = 88)
);

-- Shard keys, made when first needed. Shard = first byte of the pseudonym, which is random, so shards are even. 256 of
-- them make the daily epoch job cheap: only shards in which somebody was forgotten get a new key.
create table keks (
    shard   bigint primary key check (shard between 0 and 255),
    kek_id  bytea  not null check (octet_length(kek_id) = 16),
    epoch   bigint not null,
    kid     bytea  not null check (octet_length(kid) = 32),
    wrapped bytea  not null check (octet_length(wrapped) = 88)
);

-- Where the bytes lie that must be able to vanish. Nothing is deleted here: zeros mean destroyed, and a dead slot costs its
-- length for ever, as its tombstone does. Every page keeps room for the zeros that will replace some of its rows, so that
-- they land on the same page and are what is left there when the old versions are pruned.
create table key_slots (
    slot    bigint primary key,
    wrapped bytea  not null check (octet_length(wrapped) = 88)
) with (fillfactor = 80);
alter table key_slots alter column wrapped set storage plain;

create table id_slots (
    slot   bigint primary key,
    sealed bytea  not null
) with (fillfactor = 80);
alter table id_slots alter column sealed set storage plain;

create table subject_slots (
    slot    bigint primary key,
    subject bytea  not null check (octet_length(subject) = 16)
) with (fillfactor = 80);
alter table subject_slots alter column subject set storage plain;

create function refuse() returns trigger language plpgsql as $$
begin raise exception '%', tg_argv[0]; end $$;
create trigger key_slots_stay before delete or truncate on key_slots for each statement
execute function refuse('slots are never deleted');
create trigger id_slots_stay before delete or truncate on id_slots for each statement
execute function refuse('slots are never deleted');
create trigger subject_slots_stay before delete or truncate on subject_slots for each statement
execute function refuse('slots are never deleted');
create trigger key_slots_lie_still before update on key_slots for each row when (new.slot <> old.slot)
execute function refuse('slots are never moved');
create trigger id_slots_lie_still before update on id_slots for each row
when (new.slot <> old.slot or octet_length(new.sealed) <> octet_length(old.sealed))
execute function refuse('slots are never moved');
create trigger subject_slots_lie_still before update on subject_slots for each row when (new.slot <> old.slot)
execute function refuse('slots are never moved');

-- The keys. No state column: a row is a usable key, a tombstone is a destroyed one, nothing else exists.
create table deks (
    subject    bytea  not null check (octet_length(subject) = 16),
    purpose    text   collate "C" not null,
    generation bigint not null check (generation >= 0),
    kid        bytea  not null check (octet_length(kid) = 32),
    slot       bigint not null references key_slots (slot),
    primary key (subject, purpose, generation)
);

-- Destroyed keys, for ever: nothing may mint a key where an open tombstone stands. `kid` is null when a purpose was
-- forgotten before it ever had a key. `reauthorized` opens the way for the next generation; the row itself stays,
-- because events sealed under the old generation still ask for it.
create table tombstones (
    subject      bytea  not null check (octet_length(subject) = 16),
    purpose      text   collate "C" not null,
    generation   bigint not null check (generation >= 0),
    kid          bytea  check (kid is null or octet_length(kid) = 32),
    destroyed_ms bigint not null,
    erasure      bigint not null,
    reauthorized bigint not null default 0 check (reauthorized in (0, 1)),
    primary key (subject, purpose, generation)
);

-- Pseudonyms whose person is forgotten: present and future purposes alike. Names a random number, not a person.
create table person_tombstones (
    subject             bytea  primary key check (octet_length(subject) = 16),
    destroyed_ms        bigint not null,
    erasure             bigint not null,
    external_id_removed bigint not null check (external_id_removed in (0, 1))
);

-- People who are known. The slot holds the external id under the person's own `$identity` key, so that it dies with that
-- key in every backup, not only here. Through the id it leads from the pseudonym to the tag, hence no column
-- and no index from pseudonym to tag, which would be one more place for the link to linger in.
create table subjects (
    subject bytea  primary key check (octet_length(subject) = 16),
    slot    bigint not null references id_slots (slot)
);

-- From a caller's id to the pseudonym, by a keyed digest of the id. The pseudonym lies in the slot, zeros once the person
-- is forgotten: the tag alone remains, linked to nothing, so that the same id is refused and not silently keyed anew.
-- The row itself never changes. `kind` leaves room for natural keys beside the external id (0).
create table subject_tags (
    kind    bigint not null,
    tag     bytea  not null check (octet_length(tag) = 32),
    slot    bigint not null references subject_slots (slot),
    primary key (kind, tag)
);

-- On SQLite zeros fill this table to overwrite the write-ahead log. Here it stays empty; it is part of the format.
create table wash (
    id  bigint primary key,
    pad bytea  not null
);
