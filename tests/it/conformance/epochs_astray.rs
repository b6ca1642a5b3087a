//! Epochs where keystore and keyring are not of one age: after a restore, or where an epoch died while it began.

use oubliette::clock::Millis;
use oubliette::event::SubjectRef;

use crate::conformance::epochs::{all_open, opened_by, populate, settle, times};
use crate::conformance::keystore::{Rig, order};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// Under a root that has no epoch yet nothing is made, and it never becomes that of an epoch: other copies may lie under it.
pub async fn a_root_without_an_epoch_covers_nobody(rig: &impl Rig) {
    let keys = rig.open();
    let alive = populate(&*keys, 0, 10).await;
    rig.keyring().begin_epoch().unwrap();
    let gone = populate(&*keys, 100, 30).await;
    let copy = rig.copy();
    for (n, subject) in gone.keys().enumerate() {
        keys.destroy(order(*subject, &[], n as u64 + 1)).await.unwrap();
    }
    for day in 1..=8 {
        let status = settle(&*keys, Millis(day * DAY), &times(2)).await;
        let opened = opened_by(rig.keyring(), rig.store(), &copy);
        let effective = usize::try_from(status.effective_erasure()).unwrap();
        for subject in gone.keys().take(effective) {
            assert!(
                !opened.keys().any(|id| id.subject == *subject),
                "day {day}: called effective, and a copy opens it"
            );
        }
        assert!(day < 4 || effective == gone.len(), "{status:?}");
    }
    all_open(&*keys, &alive).await;
}

/// A keystore older than somebody who is forgotten: copies of the lost one have their keys, under the same shard key.
pub async fn a_shard_is_dirty_even_if_the_forgotten_are_not_in_it(rig: &impl Rig) {
    let keys = rig.open();
    let alive = populate(&*keys, 0, 3).await;
    let mut stranger = *alive.keys().next().unwrap();
    stranger.0[8] ^= 0xFF;
    keys.destroy(order(SubjectRef(stranger.0), &[], 1)).await.unwrap();
    assert_eq!(keys.epochs().await.unwrap().dirty_shards, 1);
    let status = settle(&*keys, Millis(2 * DAY), &times(0)).await;
    assert_eq!((status.dirty_shards, status.newest().unwrap().shards_rekeyed), (0, 1));
    // Again, as every start with an older keystore does: nothing is left to be done for it.
    keys.destroy(order(SubjectRef(stranger.0), &[], 1)).await.unwrap();
    assert!(!keys.epochs().await.unwrap().is_due_for_another());
    all_open(&*keys, &alive).await;
}
