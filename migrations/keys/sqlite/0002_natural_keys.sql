-- The keystore of the embedded engine, format 2: people found by natural key.
--
-- A natural key is the values by which a caller recognises a person who has no id (account and name, say). Only a keyed
-- tag of it is stored, under a key of its own (`secrets`, name `natural-key`, made together with these tables), so that
-- whoever has this file cannot try names out, and whoever has the key as well learns nothing of people forgotten: unlike
-- the tag of an external id, this one does not stay. The same name may later be somebody else.

-- What must be able to vanish: tag (32 bytes) and pseudonym (16). In slots that never move, for the reason argued in
-- 0001 beside `key_slots`: a tag that is the key of a tree would leave copies behind when the tree is balanced, and a copy
-- with its pseudonym would name a forgotten person to whoever guesses the name. (Measured with such a table and
-- secure_delete: 15,000 people in each of three rounds, three in ten forgotten after each: in one of three runs two of
-- 44,000 removed tags stood in the file.) Zeros mean: forgotten.
create table natural_slots (
    slot  integer primary key,
    entry blob not null check (length(entry) = 48)
) strict;

create trigger natural_slots_stay before delete on natural_slots
begin select raise(abort, 'slots are never deleted'); end;
create trigger natural_slots_lie_still before update on natural_slots when new.slot <> old.slot
begin select raise(abort, 'slots are never moved'); end;

-- The way from a tag to its slot, by the first two bytes of the tag only: with a million keys a look-up compares about
-- fifteen slots. Rows are deleted with the slot, and what a balanced tree may keep of a deleted row is too short to
-- confirm a guess: one wrong name in 65536 would match it too, and the slot it leads to is zeros.
create table blind_index (
    bucket integer not null check (bucket between 0 and 65535),
    slot   integer not null references natural_slots (slot),
    primary key (bucket, slot)
) strict, without rowid;

-- The way from a person to all of their natural keys, for the day on which they are forgotten. A person is known as long
-- as there is a row here; there is no external id and so no row in `subjects`.
create table natural_people (
    subject blob    not null check (length(subject) = 16),
    slot    integer not null references natural_slots (slot),
    primary key (subject, slot)
) strict, without rowid;

update meta set format = 2 where id = 1;
