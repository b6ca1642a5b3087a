-- Inner nodes of the Merkle tree, so that a proof costs O(log n) and not the leaves of half the tree. Kept are the roots of
-- full tiles only (C2SP tlog-tiles): every eighth level, one row for 256 events. A row is written once, in the transaction that
-- completes its node. What an older store lacks is computed from the level below when it is asked for: this table is a
-- convenience, the leaves are the truth.
create table tree (
  level   integer not null,
  number  integer not null,
  hash    blob not null check (length(hash) = 32),
  primary key (level, number)
) strict, without rowid;

-- A complete node never changes.
create trigger tree_keep before update on tree begin select raise(abort, 'the tree is immutable'); end;
create trigger tree_stay before delete on tree begin select raise(abort, 'the tree is immutable'); end;
