-- The keystore on PostgreSQL, format 3: epochs of root keys.
--
-- A copy of this database, taken before somebody was forgotten, holds that person's key under the key of their shard, and that
-- one under the root of its epoch. So in every new epoch the shards in which somebody was forgotten get a key of their own,
-- under which everybody still alive is wrapped anew, and all others are wrapped under the new root as they are. Once the old
-- root is destroyed the copy opens nothing: dump, base backup, archived write-ahead log or standby, wherever it lies.

-- Wrapped shard keys, as other slots: inline, without an index on them, overwritten with zeros before they are replaced, and
-- rewritten into new files at the end of every epoch, whatever their size. A shard key that was replaced still opens, in any
-- copy, the keys of those who were forgotten; in copies the death of its root ends it.
create table kek_slots (
    slot    bigint primary key,
    wrapped bytea  not null check (octet_length(wrapped) = 88)
) with (fillfactor = 50);
alter table kek_slots alter column wrapped set storage plain;

create trigger kek_slots_stay before delete or truncate on kek_slots for each statement
execute function refuse('slots are never deleted');
create trigger kek_slots_lie_still before update on kek_slots for each row when (new.slot <> old.slot)
execute function refuse('slots are never moved');

-- Two epochs: a key names its shard key and the epoch in which that was made, so that records under an unchanged shard key
-- stay as they are; `root` is the epoch of the root that wraps the shard key now. `dirty` is set in the transaction that
-- destroys a key of the shard and cleared in the one that replaces the shard key: no crash comes between.
--
-- A table of its own rather than a column less: a dropped column leaves its bytes where they are, a dropped table its files.
alter table keks rename to keks_of_format_2;
create table keks (
    shard   bigint primary key check (shard between 0 and 255),
    kek_id  bytea  not null check (octet_length(kek_id) = 16),
    epoch   bigint not null,
    kid     bytea  not null check (octet_length(kid) = 32),
    slot    bigint not null references kek_slots (slot),
    root    bigint not null check (root >= epoch),
    dirty   bigint not null default 0 check (dirty in (0, 1))
);
insert into kek_slots (slot, wrapped)
select row_number() over (order by shard), wrapped from keks_of_format_2 order by shard;
-- Nobody wrote down in which shards somebody was forgotten before: all of them may have been.
insert into keks (shard, kek_id, epoch, kid, slot, root, dirty)
select shard, kek_id, epoch, kid, row_number() over (order by shard), epoch,
       (select case when count(*) > 0 then 1 else 0 end from tombstones)
from keks_of_format_2 order by shard;
update keks_of_format_2 set wrapped = decode(repeat('00', 88), 'hex');
drop table keks_of_format_2;

-- One row per root, for ever. `began_ms` is written when the root is durable in the keyring; `finished_ms` when a full scan
-- has found nothing under earlier roots, and with it the due dates of those; `root_destroyed_ms` when the root is gone.
-- `erasure` is the last erasure carried out before the epoch began: what it covers. Erasures carried out while it is at work
-- belong to the next one. The counts are for the record in the event log and survive a crash here.
create table epochs (
    epoch               bigint primary key check (epoch >= 1),
    began_ms            bigint not null,
    finished_ms         bigint,
    root_destroy_due_ms bigint,
    root_destroyed_ms   bigint,
    erasure             bigint not null,
    shards_rekeyed      bigint not null default 0,
    shards_rewrapped    bigint not null default 0,
    keys_rewrapped      bigint not null default 0,
    keys_unreadable     bigint not null default 0,
    files_rewritten     bigint not null default 0 check (files_rewritten in (0, 1))
);

-- The epoch in which the store was made covers no erasure: nothing was replaced when it began. A store made in this format
-- has no keys yet and writes its row with them.
insert into epochs (epoch, began_ms, finished_ms, erasure)
select max(s.epoch), m.created_ms, m.created_ms, 0 from meta m cross join secrets s group by m.id, m.created_ms;

update meta set format = 3 where id = 1;
