//! Sketches: how many different values there were, and how they were distributed, in bounded space.
//!
//! Owns: two structures whose state depends on the set or multiset of what went in, never on its order or on how it was
//! split and merged, so that their stored bytes are the same on every node and in every rebuild. Must not know: which
//! column they are of. Only whole-number arithmetic decides where a value goes. Public crates for both exist; their
//! stored forms hold memory addresses or depend on the order of arrival, and reading a damaged one panics.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A count would not fit its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountOverflow;

/// Different values that are counted exactly; beyond, they are estimated. As hashes they then take as much room as the
/// registers do.
pub const EXACT: usize = 512;
/// Bits of a hash that choose the register: 8192 registers, standard error 1.04/√8192 = 1.15 %.
const INDEX_BITS: u32 = 13;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Largest rank: the bits after the index are all zero.
const MOST_RANK: u8 = (64 - INDEX_BITS + 1) as u8;
/// A register is stored as one character from here on: none of the 53 needs an escape in JSON.
const RANK_ZERO: u8 = b'#';

/// Counts different values: exactly up to [`EXACT`], then with HyperLogLog (Flajolet et al. 2007) and the estimator of
/// Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6.
#[derive(Clone, PartialEq)]
pub enum Distinct {
    /// Hashes of all values.
    Exact(BTreeSet<u64>),
    /// The greatest rank per register.
    Registers(Vec<u8>),
}

impl Distinct {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::Exact(BTreeSet::new())
    }

    /// Whether nothing went in.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Exact(hashes) if hashes.is_empty())
    }

    /// Adds a value, given as its canonical text.
    pub fn add(&mut self, canonical: &str) {
        let digest = Sha256::digest(canonical.as_bytes());
        self.add_hash(digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte)));
    }

    /// Adds what went into another one.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Exact(hashes)) => {
                for hash in hashes {
                    self.add_hash(*hash);
                }
            }
            (Self::Exact(hashes), Self::Registers(registers)) => {
                let mut registers = registers.clone();
                for hash in hashes.iter() {
                    raise(&mut registers, *hash);
                }
                *self = Self::Registers(registers);
            }
            (Self::Registers(mine), Self::Registers(theirs)) => {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            }
        }
    }

    /// How many different values.
    pub fn estimate(&self) -> u64 {
        match self {
            Self::Exact(hashes) => hashes.len() as u64,
            Self::Registers(registers) => estimate(registers),
        }
    }

    /// Stored form: `s` and the hashes in hexadecimal, ascending; or `r` and one character per register.
    pub fn text(&self) -> String {
        match self {
            Self::Exact(hashes) => {
                let mut text = String::with_capacity(1 + 16 * hashes.len());
                text.push('s');
                for hash in hashes {
                    text.push_str(&hex::encode(hash.to_be_bytes()));
                }
                text
            }
            Self::Registers(registers) => {
                std::iter::once('r').chain(registers.iter().map(|rank| char::from(RANK_ZERO + rank))).collect()
            }
        }
    }

    /// Reads the stored form. `None` when no [`Distinct`] has it.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(ranks) = text.strip_prefix('r') {
            let rank = |byte: u8| byte.checked_sub(RANK_ZERO).filter(|rank| *rank <= MOST_RANK);
            let registers: Vec<u8> = ranks.bytes().map(rank).collect::<Option<_>>()?;
            return (registers.len() == REGISTERS).then_some(Self::Registers(registers));
        }
        let digits = text.strip_prefix('s')?;
        if digits.len() > 16 * EXACT || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let bytes = hex::decode(digits).ok()?;
        let (chunks, rest) = bytes.as_chunks::<8>();
        let hashes: Vec<u64> = chunks.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect();
        let ascending = hashes.is_sorted_by(|one, two| one < two);
        (rest.is_empty() && ascending).then(|| Self::Exact(hashes.into_iter().collect()))
    }

    fn add_hash(&mut self, hash: u64) {
        match self {
            Self::Exact(hashes) => {
                hashes.insert(hash);
                if hashes.len() > EXACT {
                    let mut registers = vec![0; REGISTERS];
                    for hash in hashes.iter() {
                        raise(&mut registers, *hash);
                    }
                    *self = Self::Registers(registers);
                }
            }
            Self::Registers(registers) => raise(registers, hash),
        }
    }
}

/// Puts a hash into its register. The first bits are the register, the zeros that follow, plus one, the rank.
fn raise(registers: &mut [u8], hash: u64) {
    let index = (hash >> (64 - INDEX_BITS)) as usize;
    let guard = 1 << (INDEX_BITS - 1);
    let rank = ((hash << INDEX_BITS | guard).leading_zeros() + 1) as u8;
    registers[index] = registers[index].max(rank);
}

fn estimate(registers: &[u8]) -> u64 {
    let mut ranks = [0.0_f64; MOST_RANK as usize + 1];
    for rank in registers {
        ranks[usize::from(*rank)] += 1.0;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - ranks[usize::from(MOST_RANK)] / m);
    for count in ranks[1..usize::from(MOST_RANK)].iter().rev() {
        z = 0.5 * (z + count);
    }
    z += m * sigma(ranks[0] / m);
    // A cast saturates: registers that are all full mean more values than there are.
    (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
}

/// Correction for registers that are empty.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

/// Correction for registers that are full.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}

/// Bins of one distribution at most; the lowest are thrown together beyond that. 2048 are 32 doublings of dense data.
pub const MOST_BINS: usize = 2048;
/// Bits of a double below those that choose the bin: the exponent and six bits of the fraction remain, so that a bin is
/// at most 1/64 of its values wide.
const BIN_SHIFT: u32 = 46;
/// Bins of the least and the greatest normal number.
const BINS: std::ops::RangeInclusive<i32> = 64..=(2047 << 6) - 1;

/// A distribution of numbers in bins of equal relative width, after DDSketch (Masson et al. 2019). A quantile is off by
/// at most 1/128 of its value, unless there were more than [`MOST_BINS`] bins: then those of the lowest values, which lie
/// beyond a range of at least 32 doublings or belong to another sign, are one.
#[derive(Clone, PartialEq)]
pub struct Distribution {
    count: u64,
    min: f64,
    max: f64,
    bins: BTreeMap<i32, u64>,
}

impl Distribution {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, bins: BTreeMap::new() }
    }

    /// Whether nothing went in.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a finite number.
    ///
    /// # Errors
    /// [`CountOverflow`]; nothing was added.
    pub fn add(&mut self, value: f64) -> Result<(), CountOverflow> {
        self.count = self.count.checked_add(1).ok_or(CountOverflow)?;
        // Turns -0 into 0: both are the same JSON.
        let value = value + 0.0;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        *self.bins.entry(bin(value)).or_default() += 1;
        self.collapse();
        Ok(())
    }

    /// Adds what went into another one.
    ///
    /// # Errors
    /// [`CountOverflow`]; nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), CountOverflow> {
        self.count = self.count.checked_add(other.count).ok_or(CountOverflow)?;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
        self.collapse();
        Ok(())
    }

    /// The least value that at least this share of all values does not exceed (`percentile_disc` in SQL). `None` when
    /// nothing went in.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        if rank == self.count {
            return Some(self.max);
        }
        let mut below = 0;
        let found = self.bins.iter().find(|(_, count)| {
            below += **count;
            below >= rank
        });
        found.map(|(bin, _)| middle(*bin).clamp(self.min, self.max))
    }

    /// Stored form: `[min, max, bin, count, distance to the next bin, its count, …]`; `[]` when nothing went in.
    pub fn to_json(&self) -> Value {
        if self.is_empty() {
            return Value::Array(Vec::new());
        }
        let mut items = vec![Value::from(self.min), Value::from(self.max)];
        let mut last = 0;
        for (bin, count) in &self.bins {
            items.extend([Value::from(bin - last), Value::from(*count)]);
            last = *bin;
        }
        Value::Array(items)
    }

    /// Reads the stored form. `None` when no [`Distribution`] has it.
    pub fn from_json(value: &Value) -> Option<Self> {
        let mut read = Self::new();
        let [min, max, bins @ ..] = value.as_array()?.as_slice() else {
            return value.as_array()?.is_empty().then_some(read);
        };
        (read.min, read.max) = (min.as_f64()? + 0.0, max.as_f64()? + 0.0);
        let (pairs, rest) = bins.as_chunks::<2>();
        if !rest.is_empty() || pairs.is_empty() || pairs.len() > MOST_BINS {
            return None;
        }
        let mut last: Option<i32> = None;
        for [distance, count] in pairs {
            let distance = i32::try_from(distance.as_i64()?).ok()?;
            let (bin, count) = (last.unwrap_or(0).checked_add(distance)?, count.as_u64()?);
            let real = bin == 0 || bin.checked_abs().is_some_and(|bin| BINS.contains(&bin));
            if !real || count == 0 || last.is_some_and(|last| bin <= last) {
                return None;
            }
            read.count = read.count.checked_add(count)?;
            read.bins.insert(bin, count);
            last = Some(bin);
        }
        let (first, full) = (*read.bins.keys().next()?, read.bins.len() == MOST_BINS);
        let fits = bin(read.min) == first || (full && bin(read.min) < first);
        (fits && read.min <= read.max && last == Some(bin(read.max))).then_some(read)
    }

    /// Throws the lowest bins together. The bins that remain are always the highest of all that ever were, and the lowest
    /// of them holds everything below it, whatever came first.
    fn collapse(&mut self) {
        while self.bins.len() > MOST_BINS {
            if let Some((_, count)) = self.bins.pop_first()
                && let Some(mut lowest) = self.bins.first_entry()
            {
                *lowest.get_mut() += count;
            }
        }
    }
}

/// Bin of a finite number, in the order of numbers. Zero and what is too small for a normal double are one bin.
fn bin(value: f64) -> i32 {
    let bin = (value.abs().to_bits() >> BIN_SHIFT) as i32;
    match (bin < *BINS.start(), value < 0.0) {
        (true, _) => 0,
        (false, true) => -bin,
        (false, false) => bin,
    }
}

/// The number in the middle of a bin.
fn middle(bin: i32) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    let middle = f64::from_bits(u64::from(bin.unsigned_abs()) << BIN_SHIFT | 1 << (BIN_SHIFT - 1));
    if bin < 0 { -middle } else { middle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distinct(values: impl IntoIterator<Item = u32>) -> Distinct {
        let mut sketch = Distinct::new();
        values.into_iter().for_each(|value| sketch.add(&value.to_string()));
        sketch
    }

    fn distribution(values: &[f64]) -> Distribution {
        let mut sketch = Distribution::new();
        for value in values {
            sketch.add(*value).unwrap();
        }
        sketch
    }

    #[test]
    fn few_values_are_counted_exactly_and_many_within_three_percent() {
        assert_eq!(distinct((0..512).chain(0..512)).estimate(), 512);
        for many in [513, 2_000, 10_000, 100_000] {
            let off = distinct(0..many).estimate().abs_diff(u64::from(many));
            assert!(off * 100 <= u64::from(many) * 3, "{many} are off by {off}");
        }
    }

    #[test]
    fn registers_at_their_ends() {
        assert_eq!(estimate(&[0; REGISTERS]), 0);
        assert_eq!(estimate(&[MOST_RANK; REGISTERS]), u64::MAX);
        let mut registers = vec![0; REGISTERS];
        raise(&mut registers, 0);
        raise(&mut registers, u64::MAX);
        assert_eq!((registers[0], registers[REGISTERS - 1]), (MOST_RANK, 1));
        let full = Distinct::Registers(vec![MOST_RANK; REGISTERS]);
        assert!(Distinct::parse(&full.text()) == Some(full));
    }

    #[test]
    fn damaged_sets_are_refused() {
        let good = distinct(0..3).text();
        let ragged = &good[..good.len() - 2];
        let doubled = format!("{good}{}", &good[33..]);
        let long = format!("s{}", "0".repeat(16 * EXACT + 16));
        let registers = distinct(0..600).text();
        let short = &registers[..registers.len() - 1];
        let foreign = registers.replacen('#', "~", 1);
        for text in ["", "x", "r", "sé", "s0", ragged, &doubled, &good.to_uppercase(), &long, short, &foreign] {
            assert!(Distinct::parse(text).is_none());
        }
    }

    #[test]
    fn bins_are_in_the_order_of_numbers() {
        let ascending = [f64::MIN, -1.0, -1e-300, 0.0, f64::MIN_POSITIVE, 1e-300, 0.5, 1.0, 50.0, 1e300, f64::MAX];
        assert!(ascending.iter().map(|value| bin(*value)).is_sorted());
        assert_eq!((bin(f64::MIN_POSITIVE), bin(f64::MAX)), (*BINS.start(), *BINS.end()));
        assert_eq!(bin(5e-324), 0);
        assert!(middle(*BINS.end()).is_finite());
    }

    #[test]
    fn the_lowest_bins_collapse_in_any_order() {
        let values: Vec<f64> = (0..4000).map(|n| 1e-9 * 1.02_f64.powi(n)).collect();
        let up = distribution(&values);
        let down = distribution(&values.iter().rev().copied().collect::<Vec<_>>());
        let mut merged = distribution(&values[..1500]);
        merged.merge(&distribution(&values[1500..])).unwrap();
        assert!(up == down && up == merged);
        assert_eq!(up.bins.len(), MOST_BINS);
        assert!(Distribution::from_json(&up.to_json()) == Some(up.clone()));
        let p95 = up.quantile(0.95).unwrap() / values[3799];
        assert!((p95 - 1.0).abs() < 0.01);
    }

    #[test]
    fn counts_do_not_wrap() {
        let mut sketch = distribution(&[1.0]);
        let full = Distribution::from_json(&serde_json::json!([1.0, 1.0, bin(1.0), u64::MAX])).unwrap();
        assert_eq!(sketch.merge(&full), Err(CountOverflow));
        assert!(sketch == distribution(&[1.0]));
        assert_eq!(full.clone().add(1.0), Err(CountOverflow));
        assert_eq!(full.quantile(0.5), Some(1.0));
    }

    proptest! {
        #[test]
        fn sets_do_not_depend_on_order_or_splits(values in prop::collection::vec(0u32..2000, 0..1500), at in 0usize..1500) {
            let (one, two) = values.split_at(at.min(values.len()));
            let mut merged = distinct(two.iter().copied());
            merged.merge(&distinct(one.iter().copied()));
            let whole = distinct(values.iter().copied());
            prop_assert!(merged == whole);
            prop_assert!(Distinct::parse(&whole.text()) == Some(whole));
        }

        #[test]
        fn quantiles_are_within_one_percent(
            values in prop::collection::vec(prop_oneof![-1e3..1e6, Just(0.0), -1e-3..1e-3, (0i32..100).prop_map(f64::from)], 1..300),
            share in 0.0..=1.0,
        ) {
            let found = distribution(&values).quantile(share).unwrap();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let expected = sorted[rank - 1];
            prop_assert!((found - expected).abs() <= expected.abs() * 0.01, "{} is not {}", found, expected);
        }
    }
}
