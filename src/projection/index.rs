//! placeholder
use super::definition::Definition;
use super::row::Row;
/// x
pub fn entries(_definition: &Definition, _row: &Row) -> Vec<(i64, Vec<u8>)> {
    Vec::new()
}
