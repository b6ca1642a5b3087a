-- The keystore of the embedded engine, format 3: epochs of root keys.
--
-- A copy of this file, taken before somebody was forgotten, holds that person's key under the key of their shard, and that one
-- under the root of its epoch. So in every new epoch the shards in which somebody was forgotten get a key of their own, under
-- which everybody still alive is wrapped anew, and all others are wrapped under the new root as they are. Once the old root is
-- destroyed the copy opens nothing, wherever it lies.

-- Wrapped shard keys, in slots that never move, for the reason argued in 0001 beside `key_slots`: a shard key that was
-- replaced still opens, in any copy, the keys of those who were forgotten. It is overwritten here where it lies; in copies the
-- death of its root ends it.
create table kek_slots (
    slot    integer primary key,
    wrapped blob    not null check (length(wrapped) = 88)
) strict;

create trigger kek_slots_stay before delete on kek_slots begin select raise(abort, 'slots are never deleted'); end;
create trigger kek_slots_lie_still before update on kek_slots when new.slot <> old.slot
begin select raise(abort, 'slots are never moved'); end;

-- Two epochs: a key names its shard key and the epoch in which that was made, so that records under an unchanged shard key
-- stay as they are; `root` is the epoch of the root that wraps the shard key now. `dirty` is set in the transaction that
-- destroys a key of the shard and cleared in the one that replaces the shard key: no crash comes between.
--
-- The old table is dropped. Its pages go to the free list and secure_delete zeroes them whole; what the write-ahead log still
-- has of them the next wash overwrites.
alter table keks rename to keks_of_format_2;
create table keks (
    shard   integer primary key check (shard between 0 and 255),
    kek_id  blob    not null check (length(kek_id) = 16),
    epoch   integer not null,
    kid     blob    not null check (length(kid) = 32),
    slot    integer not null references kek_slots (slot),
    root    integer not null check (root >= epoch),
    dirty   integer not null default 0 check (dirty in (0, 1))
) strict;
insert into kek_slots (slot, wrapped)
select row_number() over (order by shard), wrapped from keks_of_format_2 order by shard;
-- Nobody wrote down in which shards somebody was forgotten before: all of them may have been.
insert into keks (shard, kek_id, epoch, kid, slot, root, dirty)
select shard, kek_id, epoch, kid, row_number() over (order by shard), epoch,
       (select count(*) > 0 from tombstones)
from keks_of_format_2 order by shard;
drop table keks_of_format_2;

-- One row per root, for ever. `began_ms` is written when the root is durable in the keyring; `finished_ms` when a full scan
-- has found nothing under earlier roots, and with it the due dates of those; `root_destroyed_ms` when the root is gone.
-- `erasure` is the last erasure carried out before the epoch began: what it covers. Erasures carried out while it is at work
-- belong to the next one. The counts are for the record in the event log and survive a crash here.
create table epochs (
    epoch               integer primary key check (epoch >= 1),
    began_ms            integer not null,
    finished_ms         integer,
    root_destroy_due_ms integer,
    root_destroyed_ms   integer,
    erasure             integer not null,
    shards_rekeyed      integer not null default 0,
    shards_rewrapped    integer not null default 0,
    keys_rewrapped      integer not null default 0,
    keys_unreadable     integer not null default 0,
    files_rewritten     integer not null default 0 check (files_rewritten in (0, 1))
) strict;

-- The epoch in which the store was made covers no erasure: nothing was replaced when it began.
insert into epochs (epoch, began_ms, finished_ms, erasure)
select max(s.epoch), m.created_ms, m.created_ms, 0 from meta m join secrets s group by m.id;

update meta set format = 3 where id = 1;
