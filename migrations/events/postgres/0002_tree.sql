-- Inner nodes of the Merkle tree; see the migration of the same number for SQLite. A node of an older version that still
-- runs writes no rows here: what it leaves out is computed from the level below.
create table tree (
  level   bigint not null,
  number  bigint not null,
  hash    bytea not null check (octet_length(hash) = 32),
  primary key (level, number)
);

-- A complete node never changes.
create trigger tree_stay before update or delete or truncate on tree for each statement
execute function refuse('the tree is immutable');
