//! Where a page ended.
//!
//! Owns: the place and its text form, which a paging cursor carries. Must not know: who may use it: the text is neither
//! secret nor authenticated. It holds keys and index entries, so nothing personal.

use std::fmt;

use crate::projection::row::RowKey;
use crate::projection::store::GenerationId;

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Generation of the rows.
    pub generation: GenerationId,
    /// Its last row.
    pub key: RowKey,
    /// That row's entry, when an index found it.
    pub entry: Option<Vec<u8>>,
    /// Rows up to here, when they are sorted or grouped; else 0.
    pub offset: usize,
    /// Position before which the rows stood as they were shown, when they are not those of now.
    pub before: Option<u64>,
}

impl After {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, before) = text.split_once('@').map_or((text, None), |(text, before)| (text, Some(before)));
        let mut parts = text.split('.');
        let mut next = || parts.next();
        let after = Self {
            generation: GenerationId(next()?.parse().ok()?),
            offset: next()?.parse().ok()?,
            key: RowKey::parse(next()?)?,
            entry: next().map(hex::decode).transpose().ok()?,
            before: before.map(str::parse).transpose().ok()?,
        };
        next().is_none().then_some(after)
    }
}

/// `generation.offset.k_….entry@before`, the entry in hexadecimal if there is one.
impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation.0, self.offset, self.key)?;
        if let Some(entry) = &self.entry {
            write!(f, ".{}", hex::encode(entry))?;
        }
        self.before.map_or(Ok(()), |before| write!(f, "@{before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let entries = [None, Some(vec![]), Some(vec![0, 255])];
        for (entry, before) in entries.into_iter().flat_map(|entry| [(entry.clone(), None), (entry, Some(12))]) {
            let after = After { generation: GenerationId(7), key: RowKey([9; 16]), entry, offset: 40, before };
            assert_eq!(After::parse(&after.to_string()), Some(after));
        }
        for text in [
            "",
            "1",
            "1.2",
            "1.2.k_",
            "x.2.k_09090909090909090909090909090909",
            "1.2.k_09090909090909090909090909090909.0",
            "1.2.k_09090909090909090909090909090909.00.",
            "1.2.k_09090909090909090909090909090909@",
        ] {
            assert_eq!(After::parse(text), None, "{text}");
        }
    }
}
