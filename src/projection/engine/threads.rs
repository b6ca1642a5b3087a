//! Work of one batch on several threads.
//!
//! Owns: how a batch is split: what is about different rows has nothing to do with one another. Must not know: what the
//! work is. A small batch stays on its thread; whatever is split gives the same as if it were not.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::OnceLock;

use crate::projection::row::RowKey;

/// Most threads of a batch.
const MOST_THREADS: usize = 8;
/// Fewest items that are worth a thread.
const FEWEST: usize = 32;

/// In how many parts so many items are worth splitting.
pub fn parts(items: usize) -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    let threads = *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    threads.min(MOST_THREADS).min(items / FEWEST).max(1)
}

/// What `f` makes of each part, in order; the last part is done on this thread.
pub fn each<T: Send, R: Send>(mut parts: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    let Some(last) = parts.pop() else { return Vec::new() };
    let f = &f;
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || f(part))).collect();
        let last = f(last);
        let mut done: Vec<R> = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        done.push(last);
        done
    })
}

/// Consecutive pieces of about the same size.
pub fn pieces<T>(items: &[T]) -> Vec<&[T]> {
    items.chunks(items.len().div_ceil(parts(items.len())).max(1)).collect()
}

/// Places of items, in parts of about the same size: items that share a key, directly or through others, are in one part
/// and keep their order.
pub fn apart(keys: &[Vec<RowKey>], parts: usize) -> Vec<Vec<usize>> {
    let mut first: HashMap<RowKey, usize> = HashMap::new();
    let mut leader: Vec<usize> = (0..keys.len()).collect();
    for (at, keys) in keys.iter().enumerate() {
        for key in keys {
            let other = *first.entry(*key).or_insert(at);
            let (one, two) = (lead(&mut leader, other), lead(&mut leader, at));
            leader[one.max(two)] = one.min(two);
        }
    }
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    for at in 0..keys.len() {
        groups.entry(lead(&mut leader, at)).or_default().push(at);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort_unstable_by_key(|group| std::cmp::Reverse(group.len()));
    let mut found = vec![Vec::new(); parts.max(1)];
    for group in groups {
        if let Some(smallest) = found.iter_mut().min_by_key(|part: &&mut Vec<usize>| part.len()) {
            smallest.extend(group);
        }
    }
    found.retain(|part| !part.is_empty());
    for part in &mut found {
        part.sort_unstable();
    }
    found
}

fn lead(leader: &mut [usize], mut at: usize) -> usize {
    while leader[at] != at {
        leader[at] = leader[leader[at]];
        at = leader[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_key_is_in_two_parts(
            keys in prop::collection::vec(prop::collection::vec(0_u8..20, 0..3), 0..60),
            count in 1_usize..5,
        ) {
            let keys: Vec<Vec<RowKey>> =
                keys.into_iter().map(|keys| keys.into_iter().map(|key| RowKey([key; 16])).collect()).collect();
            let found = apart(&keys, count);
            prop_assert!(found.len() <= count);
            let mut seen: HashSet<RowKey> = HashSet::new();
            for part in &found {
                prop_assert!(part.is_sorted());
                let own: HashSet<RowKey> = part.iter().flat_map(|at| &keys[*at]).copied().collect();
                prop_assert!(seen.is_disjoint(&own));
                seen.extend(own);
            }
            let mut all: Vec<usize> = found.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..keys.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn order_is_kept() {
        assert_eq!(each(vec![3, 1, 2], |n| n * 2), [6, 2, 4]);
        assert!(each(Vec::<u8>::new(), |n| n).is_empty());
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(pieces(&items).concat(), items);
        assert!(pieces(&items[..3]).len() == 1 && pieces::<u8>(&[]).is_empty());
    }
}
