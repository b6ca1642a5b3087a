-- The keystore on PostgreSQL, format 2: people found by natural key.
--
-- A natural key is the values by which a caller recognises a person who has no id (account and name, say). Only a keyed
-- tag of it is stored, under a key of its own (`secrets`, name `natural-key`, made together with these tables), so that
-- whoever has this database cannot try names out, and whoever has the key as well learns nothing of people forgotten:
-- unlike the tag of an external id, this one does not stay. The same name may later be somebody else.

-- What must be able to vanish: tag (32 bytes) and pseudonym (16), in slots for the reason argued in 0001: a tag that is
-- the key of an index would leave copies behind in it. Zeros mean: forgotten.
create table natural_slots (
    slot  bigint primary key,
    entry bytea  not null check (octet_length(entry) = 48)
) with (fillfactor = 80);
alter table natural_slots alter column entry set storage plain;

create trigger natural_slots_stay before delete or truncate on natural_slots for each statement
execute function refuse('slots are never deleted');
create trigger natural_slots_lie_still before update on natural_slots for each row when (new.slot <> old.slot)
execute function refuse('slots are never moved');

-- The way from a tag to its slot, by the first two bytes of the tag only: with a million keys a look-up compares about
-- fifteen slots. Rows are deleted with the slot, and what an index may keep of a deleted row is too short to
-- confirm a guess: one wrong name in 65536 would match it too, and the slot it leads to is zeros.
create table blind_index (
    bucket bigint not null check (bucket between 0 and 65535),
    slot   bigint not null references natural_slots (slot),
    primary key (bucket, slot)
);

-- The way from a person to all of their natural keys, for the day on which they are forgotten. A person is known as long
-- as there is a row here; there is no external id and so no row in `subjects`.
create table natural_people (
    subject bytea  not null check (octet_length(subject) = 16),
    slot    bigint not null references natural_slots (slot),
    primary key (subject, slot)
);

update meta set format = 2 where id = 1;
