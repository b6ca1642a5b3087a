//! The registry from the outside: real inputs, hostile ones, and the invariants.
