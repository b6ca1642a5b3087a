//! Whose a derived value is.
//!
//! Owns: the arithmetic of owners. A value that was computed from personal values may be read only where all of them may
//! be read: for a purpose that they have in common, while the keys of all their owners for that purpose exist. Where in
//! doubt it is more than one person's, never less. Must not know: keys, rows.

use std::collections::BTreeSet;

use crate::event::{Purpose, SubjectRef};

/// Alternatives kept of a combination; those beyond are dropped, which makes a value readable to fewer, never to more.
const MOST_ALTERNATIVES: usize = 8;
/// Owners of one value. More is a sum over people, and that needs an aggregate.
pub const MOST_OWNERS: usize = 16;

/// One way to read a value: all these keys for this purpose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alternative {
    /// The purpose.
    pub purpose: Purpose,
    /// People and generations of their keys for the purpose.
    pub people: BTreeSet<(SubjectRef, u32)>,
}

/// Whose a value is. Without alternatives it is public.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owners(BTreeSet<Alternative>);

/// Why values cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// They have no purpose in common: nobody may see both at once (GDPR Art. 5(1)(b), purpose limitation).
    #[error("personal values that have no purpose in common cannot be combined")]
    NoCommonPurpose,
    /// The result would belong to too many people.
    #[error("a value would belong to more than {MOST_OWNERS} people; use an aggregate")]
    TooManyOwners,
}

impl Owners {
    /// Nobody's: a public value.
    pub fn public() -> Self {
        Self::default()
    }

    /// Readable in any of these ways.
    pub fn any_of(alternatives: impl IntoIterator<Item = Alternative>) -> Self {
        Self(alternatives.into_iter().collect())
    }

    /// Whether nobody owns the value.
    pub fn is_public(&self) -> bool {
        self.0.is_empty()
    }

    /// The ways to read it.
    pub fn alternatives(&self) -> impl ExactSizeIterator<Item = &Alternative> {
        self.0.iter()
    }

    /// Everyone in any alternative.
    pub fn people(&self) -> BTreeSet<SubjectRef> {
        self.0.iter().flat_map(|way| way.people.iter().map(|(subject, _)| *subject)).collect()
    }

    /// The owners of a value computed from values of both.
    ///
    /// # Errors
    /// [`CombineError`]; such a value must not exist.
    pub fn and(&self, other: &Self) -> Result<Self, CombineError> {
        if self.is_public() || self == other {
            return Ok(other.clone());
        }
        if other.is_public() {
            return Ok(self.clone());
        }
        let mut ways: Vec<Alternative> = Vec::new();
        let mut common = false;
        for one in &self.0 {
            for two in other.0.iter().filter(|two| two.purpose == one.purpose) {
                common = true;
                let people: BTreeSet<_> = one.people.union(&two.people).copied().collect();
                if people.len() <= MOST_OWNERS {
                    ways.push(Alternative { purpose: one.purpose.clone(), people });
                }
            }
        }
        match (common, ways.is_empty()) {
            (false, _) => Err(CombineError::NoCommonPurpose),
            (true, true) => Err(CombineError::TooManyOwners),
            (true, false) => Ok(Self::smallest(ways)),
        }
    }

    /// Drops alternatives that demand more than another one does, then those beyond the limit.
    fn smallest(mut ways: Vec<Alternative>) -> Self {
        ways.sort_by(|a, b| (a.people.len(), a).cmp(&(b.people.len(), b)));
        let mut kept: Vec<Alternative> = Vec::new();
        for way in ways {
            let covered = kept.iter().any(|k| k.purpose == way.purpose && k.people.is_subset(&way.people));
            if !covered && kept.len() < MOST_ALTERNATIVES {
                kept.push(way);
            }
        }
        Self(kept.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(n: u8) -> SubjectRef {
        SubjectRef([n; 16])
    }

    fn way(purpose: &str, people: &[u8]) -> Alternative {
        Alternative {
            purpose: Purpose::parse(purpose).unwrap(),
            people: people.iter().map(|n| (person(*n), 0)).collect(),
        }
    }

    fn owners(ways: &[Alternative]) -> Owners {
        Owners::any_of(ways.iter().cloned())
    }

    #[test]
    fn a_value_of_two_people_needs_both() {
        let ada = owners(&[way("general", &[1])]);
        let bob = owners(&[way("general", &[2])]);
        assert_eq!(ada.and(&bob), Ok(owners(&[way("general", &[1, 2])])));
        assert_eq!(ada.and(&Owners::public()), Ok(ada.clone()));
        assert_eq!(Owners::public().and(&ada), Ok(ada.clone()));
        assert_eq!(ada.and(&ada), Ok(ada));
    }

    #[test]
    fn only_common_purposes_remain() {
        let wide = owners(&[way("payments", &[1]), way("marketing", &[1])]);
        let narrow = owners(&[way("payments", &[1])]);
        assert_eq!(wide.and(&narrow), Ok(narrow.clone()));
        assert_eq!(narrow.and(&owners(&[way("marketing", &[1])])), Err(CombineError::NoCommonPurpose));
    }

    #[test]
    fn what_outlives_one_of_two_people_does_so_in_combination() {
        // `erase_when: all`: either person's key is enough.
        let either = owners(&[way("general", &[1]), way("general", &[2])]);
        let ada = owners(&[way("general", &[1])]);
        assert_eq!(either.and(&ada), Ok(ada));
    }

    #[test]
    fn many_people_need_an_aggregate() {
        let mut all = Owners::public();
        for n in 0..16 {
            all = all.and(&owners(&[way("general", &[n])])).unwrap();
        }
        assert_eq!(all.people().len(), MOST_OWNERS);
        assert_eq!(all.and(&owners(&[way("general", &[99])])), Err(CombineError::TooManyOwners));
    }
}
