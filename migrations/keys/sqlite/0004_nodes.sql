-- The keystore of the embedded engine, format 4: several processes over one keystore.
--
-- Here there is one process, and these tables stay empty; they are part of the format. What they are for:
--
-- Whoever holds keys in memory must be known, or nobody could say that a forgotten person's keys are in no memory any
-- more. So a process registers here before it asks for its first key, and the question for keys looks for the registration
-- in the same snapshot. A destruction adds a revocation in its own transaction; every process applies revocations in order,
-- lets go of what it holds, and says here how far it has come. Who forgets waits for all of them, or until whatever
-- they hold has expired by their own clocks.

create table nodes (
    node          blob    primary key check (length(node) = 16),
    -- For people: what the operator called it.
    name          text   not null,
    -- How long it may use what it was given without asking again. Its own word: other processes may be configured otherwise.
    lease_ms      integer not null check (lease_ms > 0),
    registered_ms integer not null,
    -- When it last said something, by its own clock. Only shown; nothing rests on it.
    seen_ms       integer not null,
    -- It has let go of everything revoked up to here.
    acknowledged  integer not null,
    -- The revocation that it did not answer in time: no key is given to it and it may not go on, but what it was given before
    -- may still be in its memory and in its answers, so it stays here, and is waited for, until all of that has expired.
    expelled      integer
) strict;

-- Whose keys must be let go of. Numbers are dense and in the order of the destructions, which lock `meta`. Rows that every
-- registered process has acknowledged are removed: a process that registers later starts with nothing in memory.
-- `purposes` is a JSON array, null for the whole person. All zeros as `subject`: nobody's key, but shard keys were replaced.
create table revocations (
    number     integer primary key,
    subject    blob   not null check (length(subject) = 16),
    purposes   text,
    revoked_ms integer not null
) strict;

-- Number of the last revocation; beside the other counter that a destruction moves.
alter table meta add column revocation integer not null default 0;

-- Work that one process does for all. Not a lock of a session: a machine that vanishes would hold it until the server
-- notices, which may take hours. The times are the database's own. Two that believe to lead for a moment do no harm.
create table leaders (
    role     text   primary key,
    node     blob   not null,
    until_ms integer not null
) strict;

update meta set format = 4 where id = 1;
