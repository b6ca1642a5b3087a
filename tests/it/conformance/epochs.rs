//! Epochs of root keys: everything alive opens before, during and after; what was forgotten opens from no copy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oubliette::clock::Millis;
use oubliette::event::{StoreId, SubjectRef};
use oubliette::keystore::epoch::{EpochState, EpochTimes, next_step};
use oubliette::keystore::keyring::{Keyring, root_id};
use oubliette::keystore::wrap::{WrapContext, unwrap, wrapped_by};
use oubliette::keystore::{Dek, DekId, EpochStatus, EpochStep, Fetched, Granted, Keystore, Kid};

use crate::conformance::keystore::{Rig, fetch, granted, id, order, purpose, want};
use crate::conformance::remanence::found;
use crate::faulty::{Fault, Faulty, Method, Rate};

/// Shard, identity, epoch in which it was made, epoch of its root, key id, record.
pub type CopiedKek = (u8, [u8; 16], u32, u32, [u8; 32], Vec<u8>);
/// Subject, purpose, generation, key id, record.
pub type CopiedDek = ([u8; 16], String, u32, [u8; 32], Vec<u8>);

/// The rows of a copy: everything that a thief of the keystore's database has.
#[derive(Default)]
pub struct Copy {
    /// Shard keys.
    pub keks: Vec<CopiedKek>,
    /// Keys of people.
    pub deks: Vec<CopiedDek>,
}

/// Opens every key of a copy that a keyring opens: what the strongest thief could do, without any of our engines.
pub fn opened_by(keyring: &Keyring, store: StoreId, copy: &Copy) -> BTreeMap<DekId, Kid> {
    let nobody = SubjectRef([0; 16]);
    let mut keks: HashMap<(u8, [u8; 16]), (u32, Dek)> = HashMap::new();
    for (shard, kek_id, made, _, kid, record) in &copy.keks {
        let Some((_, epoch)) = wrapped_by(record) else { continue };
        let Some(root) = keyring.root(epoch) else { continue };
        let (name, generation) = (root_id(&root), u32::from(*shard));
        let context =
            WrapContext { kek_id: &name, epoch, store: &store, subject: &nobody, purpose: "$shard", generation };
        if let Ok(key) = unwrap(&root, &context, record, &Kid(*kid)) {
            keks.insert((*shard, *kek_id), (*made, key));
        }
    }
    let mut opened = BTreeMap::new();
    for (subject, purpose_name, generation, kid, record) in &copy.deks {
        let subject = SubjectRef(*subject);
        let Some((kek_id, epoch)) = wrapped_by(record) else { continue };
        let Some((made, kek)) = keks.get(&(subject.0[0], kek_id)) else { continue };
        assert_eq!(*made, epoch, "a key names the epoch of its shard key");
        let context = WrapContext {
            kek_id: &kek_id,
            epoch,
            store: &store,
            subject: &subject,
            purpose: purpose_name,
            generation: *generation,
        };
        if let Ok(key) = unwrap(kek.secret(), &context, record, &Kid(*kid)) {
            let id = DekId { subject, purpose: purpose(purpose_name), generation: *generation };
            opened.insert(id, key.kid());
        }
    }
    opened
}

const DAY: i64 = 24 * 60 * 60 * 1000;

pub fn times(keep_days: u64) -> EpochTimes {
    EpochTimes { every: Duration::from_hours(24), keep: Duration::from_hours(24 * keep_days) }
}

/// Takes steps until there is nothing to do at this time.
pub async fn settle(keys: &dyn Keystore, now: Millis, times: &EpochTimes) -> EpochStatus {
    for _ in 0..2000 {
        let status = keys.epochs().await.unwrap();
        match next_step(&status, now, times) {
            Some(step) => drop(keys.advance_epoch(step).await.unwrap()),
            None => return status,
        }
    }
    panic!("an epoch does not come to an end");
}

/// Begins an epoch and takes it to its end.
pub async fn rotate(keys: &dyn Keystore, at: i64, keep_days: u64) -> EpochStatus {
    let after = keys.epochs().await.unwrap().newest().unwrap().epoch;
    keys.advance_epoch(EpochStep::Begin { after, at: Millis(at) }).await.unwrap();
    settle(keys, Millis(at), &times(keep_days)).await
}

pub type People = BTreeMap<SubjectRef, Vec<(DekId, Kid)>>;

pub async fn populate(keys: &dyn Keystore, from: usize, count: usize) -> People {
    let wants = (from..from + count).map(|n| want(&format!("e{n}"), &["general", "marketing"])).collect();
    let mut people = People::new();
    for answer in keys.ensure(wants).await.unwrap() {
        let Granted::Keys { subject, keys } = answer else { panic!() };
        people.insert(subject, keys.into_iter().map(|(id, key)| (id, key.kid())).collect());
    }
    people
}

pub async fn all_open(keys: &dyn Keystore, people: &People) {
    let ids: Vec<(DekId, Kid)> = people.values().flatten().cloned().collect();
    let answers = keys.fetch(ids.iter().map(|(id, _)| id.clone()).collect()).await.unwrap();
    for ((id, kid), answer) in ids.iter().zip(answers) {
        assert!(matches!(&answer, Fetched::Key(key) if key.kid() == *kid), "{id:?}: {answer:?}");
    }
}

async fn all_destroyed(keys: &dyn Keystore, people: &People) {
    for (id, _) in people.values().flatten() {
        assert!(matches!(fetch(keys, id).await, Fetched::Destroyed { .. }), "{id:?}");
    }
}

pub async fn an_epoch_moves_everything_and_changes_nothing(rig: &impl Rig) {
    let keys = rig.open();
    let mut people = populate(&*keys, 0, 200).await;
    let first = keys.epochs().await.unwrap();
    assert_eq!((first.epochs.len(), first.newest_root, first.dirty_shards, first.is_running()), (1, 1, 0, false));
    let (victim, gone) = people.pop_first().unwrap();
    let gone = People::from([(victim, gone)]);
    keys.destroy(order(victim, &[], 1)).await.unwrap();
    assert_eq!(keys.epochs().await.unwrap().dirty_shards, 1);
    let mut status = keys.advance_epoch(EpochStep::Begin { after: 1, at: Millis(5 * DAY) }).await.unwrap();
    assert!(status.is_running() && status.shards_left == status.shards && status.secrets_left == 4);
    assert_eq!((status.newest_root, status.newest().unwrap().erasure), (2, 1));
    while status.left() > 0 {
        let before = status.left();
        status = keys.advance_epoch(EpochStep::Rewrap).await.unwrap();
        assert!(status.left() < before && before - status.left() <= 4, "one shard at a time");
        all_open(&*keys, &people).await;
        all_destroyed(&*keys, &gone).await;
        if before % 40 == 0 {
            people.extend(populate(&*keys, 1000 + before as usize, 3).await);
        }
    }
    let keep = times(7).keep;
    status = keys.advance_epoch(EpochStep::Finish { at: Millis(5 * DAY + 1), keep }).await.unwrap();
    let newest = *status.newest().unwrap();
    assert_eq!((newest.finished, newest.shards_rekeyed, newest.keys_unreadable), (Some(Millis(5 * DAY + 1)), 1, 0));
    assert!(newest.files_rewritten && newest.shards_rewrapped > 80);
    assert_eq!(status.epochs[0].destroy_due, Some(Millis(12 * DAY + 1)));
    assert_eq!(status.state(&status.epochs[0]), EpochState::RestoreOnly);
    assert_eq!(keys.stats().await.unwrap().epoch, 2);
    // Steps that have nothing to do change nothing.
    for step in [
        EpochStep::Begin { after: 1, at: Millis(9 * DAY) },
        EpochStep::Rewrap,
        EpochStep::Finish { at: Millis(9 * DAY), keep },
        EpochStep::DestroyRoot { epoch: 1, at: Millis(9 * DAY) },
        EpochStep::DestroyRoot { epoch: 2, at: Millis(900 * DAY) },
        EpochStep::DestroyRoot { epoch: 7, at: Millis(900 * DAY) },
    ] {
        assert_eq!(keys.advance_epoch(step).await.unwrap(), status, "{step:?}");
    }
    status = settle(&*keys, Millis(13 * DAY), &times(7)).await;
    assert_eq!(status.epochs[0].destroyed, Some(Millis(13 * DAY)));
    assert_eq!((status.effective_erasure(), status.epochs.len()), (1, 2));
    all_open(&*keys, &people).await;
    keys.close().await;
    let keys = rig.open();
    all_open(&*keys, &people).await;
    all_destroyed(&*keys, &gone).await;
    people.extend(populate(&*keys, 5000, 20).await);
    assert_eq!(keys.epochs().await.unwrap(), status_with_shards(&status, &keys.epochs().await.unwrap()));
    // Ids and natural keys are found as before, and the forgotten stay forgotten.
    assert!(granted(&*keys, want("e1", &["general"])).await.1.len() == 1);
    assert_eq!(keys.external_ids(vec![*people.keys().next().unwrap()]).await.unwrap().iter().flatten().count(), 1);
}

/// New people may have made new shard keys.
fn status_with_shards(status: &EpochStatus, now: &EpochStatus) -> EpochStatus {
    EpochStatus { shards: now.shards, ..status.clone() }
}

/// Stopped anywhere, by closing or by a lost answer, and gone on with.
pub async fn an_epoch_goes_on_where_it_stopped(rig: &impl Rig) {
    let keys = rig.open();
    let mut people = populate(&*keys, 0, 60).await;
    let (victim, _) = people.pop_last().unwrap();
    keys.destroy(order(victim, &[], 1)).await.unwrap();
    keys.advance_epoch(EpochStep::Begin { after: 1, at: Millis(DAY) }).await.unwrap();
    let mut open = keys;
    for n in 0..300 {
        if n % 7 == 0 {
            open.close().await;
            open = rig.open();
        }
        let faulty = Faulty::new(Arc::clone(&open), n);
        let fault = if n % 2 == 0 { Fault::Before } else { Fault::After };
        faulty.fail(Method::AdvanceEpoch, fault, Rate::OneIn(2));
        let status = open.epochs().await.unwrap();
        let Some(step) = next_step(&status, Millis(2 * DAY), &times(0)) else { break };
        let _ = faulty.advance_epoch(step).await;
    }
    let status = settle(&*open, Millis(2 * DAY), &times(0)).await;
    assert_eq!((status.epochs.len(), status.epochs[0].destroyed.is_some()), (2, true));
    let newest = status.newest().unwrap();
    assert_eq!((newest.shards_rekeyed, newest.shards_rewrapped + 1), (1, status.shards), "nothing is done twice");
    all_open(&*open, &people).await;
}

/// A forget while the epoch is at work belongs to the next one, whether its shard was done already or not.
pub async fn a_forget_during_an_epoch_belongs_to_the_next(rig: &impl Rig) {
    let keys = rig.open();
    let mut people = populate(&*keys, 0, 120).await;
    keys.advance_epoch(EpochStep::Begin { after: 1, at: Millis(DAY) }).await.unwrap();
    for _ in 0..20 {
        keys.advance_epoch(EpochStep::Rewrap).await.unwrap();
    }
    let (early, gone) = people.pop_first().unwrap();
    let (late, also) = people.pop_last().unwrap();
    let gone = People::from([(early, gone), (late, also)]);
    keys.destroy(order(early, &[], 1)).await.unwrap();
    keys.destroy(order(late, &[], 2)).await.unwrap();
    let status = settle(&*keys, Millis(DAY), &times(1)).await;
    assert_eq!((status.newest().unwrap().epoch, status.newest().unwrap().erasure), (2, 0));
    assert!(status.is_due_for_another());
    let status = settle(&*keys, Millis(2 * DAY), &times(1)).await;
    assert_eq!((status.newest().unwrap().epoch, status.newest().unwrap().erasure), (3, 2));
    assert_eq!((status.effective_erasure(), status.dirty_shards), (0, 0), "the second root still opens copies");
    let status = settle(&*keys, Millis(3 * DAY), &times(1)).await;
    assert_eq!((status.newest().unwrap().epoch, status.effective_erasure()), (3, 2));
    all_open(&*keys, &people).await;
    all_destroyed(&*keys, &gone).await;
    // Nobody was forgotten since: nothing begins, however long it takes.
    assert_eq!(settle(&*keys, Millis(300 * DAY), &times(1)).await, status);
}

/// Readers and writers while epoch follows epoch.
pub async fn others_go_on_while_an_epoch_is_at_work(rig: &impl Rig) {
    let keys = rig.open();
    let people = Arc::new(populate(&*keys, 0, 40).await);
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (keys, people, stop) = (Arc::clone(&keys), Arc::clone(&people), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut rounds = 0;
                while !stop.load(Ordering::SeqCst) {
                    all_open(&*keys, &people).await;
                    let name = format!("w{worker}-{rounds}");
                    let (subject, deks) = granted(&*keys, want(&name, &["general"])).await;
                    all_open(&*keys, &People::from([(subject, deks)])).await;
                    assert_eq!(keys.external_ids(vec![subject]).await.unwrap(), [Some(id(&name))]);
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    for round in 1..=3_u64 {
        // In every shard that somebody was forgotten in, the key of the shard is replaced under the others' feet.
        for n in 0..8 {
            let (subject, _) = granted(&*keys, want(&format!("v{round}-{n}"), &["general"])).await;
            keys.destroy(order(subject, &[], (round - 1) * 8 + n + 1)).await.unwrap();
        }
        let status = rotate(&*keys, round as i64 * DAY, 0).await;
        assert!(status.newest().unwrap().shards_rekeyed > 0 && status.newest().unwrap().keys_unreadable == 0);
    }
    stop.store(true, Ordering::SeqCst);
    for worker in workers {
        assert!(worker.await.unwrap() > 0);
    }
    all_open(&*keys, &people).await;
}

/// 50 copies from different times, with the keyring of today, open nothing of whoever was forgotten.
pub async fn no_copy_opens_what_was_forgotten(rig: &impl Rig) {
    let keys = rig.open();
    let (mut alive, mut copies, mut erasure) = (People::new(), Vec::new(), 0);
    let (mut gone, mut at) = (People::new(), 0);
    for round in 0..10 {
        alive.extend(populate(&*keys, round * 100, 40).await);
        for n in 0..5 {
            copies.push(rig.copy());
            for _ in 0..2 {
                let subject = *alive.keys().nth((round * 7 + n * 3) % alive.len()).unwrap();
                erasure += 1;
                keys.destroy(order(subject, &[], erasure)).await.unwrap();
                gone.insert(subject, alive.remove(&subject).unwrap());
            }
        }
        if round % 2 == 1 {
            at += DAY;
            rotate(&*keys, at, 3).await;
        }
    }
    assert_eq!((copies.len(), gone.len()), (50, 100));
    let opens = |copy: &Copy| opened_by(rig.keyring(), rig.store(), copy);
    let forgotten_in = |copy: &Copy| opens(copy).keys().filter(|id| gone.contains_key(&id.subject)).count();
    // While the roots are kept, copies open what they held: that is what they are for, and that the test can see it.
    assert!(copies.iter().rev().take(10).all(|copy| forgotten_in(copy) > 0));
    let status = settle(&*keys, Millis(at + 3 * DAY), &times(3)).await;
    assert_eq!(status.effective_erasure(), 100, "{status:?}");
    for (n, copy) in copies.iter().enumerate() {
        assert_eq!(forgotten_in(copy), 0, "copy {n}");
    }
    let now = opens(&rig.copy());
    for (id, kid) in alive.values().flatten() {
        assert_eq!(now.get(id), Some(kid), "the keyring of today opens the keystore of today");
    }
    all_open(&*keys, &alive).await;
}

/// What was wrapped before an epoch stands in no file after it.
pub async fn an_epoch_leaves_no_residue(rig: &impl Rig) {
    let keys = rig.open();
    let people = populate(&*keys, 0, 600).await;
    // Somebody in every shard, nearly.
    for (n, subject) in people.keys().step_by(3).enumerate() {
        keys.destroy(order(*subject, &[], n as u64 + 1)).await.unwrap();
    }
    keys.wash().await.unwrap();
    let before = rig.copy();
    let records = before.deks.iter().map(|dek| &dek.4[28..]).chain(before.keks.iter().map(|kek| &kek.5[28..]));
    let secrets: Vec<&[u8]> = records.collect();
    keys.close().await;
    assert_eq!(found(rig, &secrets), secrets.len(), "the scan finds what is there");
    let keys = rig.open();
    let status = rotate(&*keys, DAY, 0).await;
    assert!(status.newest().unwrap().files_rewritten && status.epochs[0].destroyed.is_some());
    // Shard keys of shards in which nobody was forgotten keep their people's records.
    let after = rig.copy();
    let replaced: Vec<&[u8]> =
        secrets.iter().copied().filter(|record| !after.deks.iter().any(|dek| dek.4[28..] == **record)).collect();
    assert!(replaced.len() > secrets.len() / 2);
    assert_eq!(found(rig, &replaced), 0);
    keys.close().await;
    assert_eq!(found(rig, &replaced), 0);
}
