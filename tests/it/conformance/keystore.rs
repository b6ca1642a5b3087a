//! What every keystore engine promises, against the trait alone.
//!
//! An engine mounts the suite with `keystore_suite!(Rig)`, where the rig makes, closes and opens keystores of one
//! place and can lay its bytes bare.

use std::collections::HashSet;
use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::event::{ExternalId, Purpose, StoreId, SubjectKey, SubjectRef};
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::{
    DekId, DestroyOrder, Destruction, Fetched, Granted, Keystore, KeystoreError, Kid, Resolved, Scope, Want,
};

pub use crate::conformance::epochs::*;
pub use crate::conformance::epochs_astray::*;
pub use crate::conformance::keystore_faults::*;
use crate::conformance::lasting;
pub use crate::conformance::natural_keys::*;
pub use crate::conformance::remanence::*;

/// One place that holds a keystore.
pub trait Rig {
    /// An empty place.
    fn new() -> Self;
    /// An empty place, or `None` where the engine cannot run, which it has said by then.
    fn place() -> Option<Self>
    where
        Self: Sized,
    {
        Some(Self::new())
    }
    /// Opens the keystore, making it the first time. The one before must be closed or dropped.
    fn open(&self) -> Arc<dyn Keystore>;
    /// The secret bytes of every row: wrapped keys (without what they share) and sealed ids. While closed.
    fn secrets(&self) -> Vec<(SubjectRef, Vec<u8>)>;
    /// The bytes of every file.
    fn files(&self) -> Vec<(String, Vec<u8>)>;
    /// The rows that a thief of the database would have, while it is open.
    fn copy(&self) -> Copy;
    /// The keyring.
    fn keyring(&self) -> &Keyring;
    /// Whose keystore it is.
    fn store(&self) -> StoreId;
}

pub fn purpose(name: &str) -> Purpose {
    Purpose::parse_any(name).unwrap()
}

pub fn id(text: &str) -> ExternalId {
    ExternalId::parse(text).unwrap()
}

pub fn want_as(subject: SubjectKey, purposes: &[&str]) -> Want {
    Want { subject, also: None, purposes: purposes.iter().map(|name| purpose(name)).collect() }
}

pub fn want(text: &str, purposes: &[&str]) -> Want {
    want_as(SubjectKey::External(id(text)), purposes)
}

pub fn want_ref(subject: SubjectRef, purposes: &[&str]) -> Want {
    want_as(SubjectKey::Ref(subject), purposes)
}

/// Ensures and takes what must be granted.
pub async fn granted(keys: &dyn Keystore, want: Want) -> (SubjectRef, Vec<(DekId, Kid)>) {
    match keys.ensure(vec![want]).await.unwrap().remove(0) {
        Granted::Keys { subject, keys } => (subject, keys.into_iter().map(|(id, key)| (id, key.kid())).collect()),
        other => panic!("not granted: {other:?}"),
    }
}

async fn refused(keys: &dyn Keystore, want: Want) -> (Option<SubjectRef>, Vec<Purpose>) {
    match keys.ensure(vec![want]).await.unwrap().remove(0) {
        Granted::Erased { subject, purposes } => (subject, purposes),
        other => panic!("not refused: {other:?}"),
    }
}

pub fn order(subject: SubjectRef, purposes: &[&str], erasure: u64) -> DestroyOrder {
    let scope = match purposes {
        [] => Scope::Person,
        names => Scope::Purposes(names.iter().map(|name| purpose(name)).collect()),
    };
    DestroyOrder { subject, scope, fenced: Vec::new(), erasure, at: Millis(1000 + erasure as i64) }
}

pub fn names(destruction: &Destruction) -> Vec<(&str, u32)> {
    destruction.keys.iter().map(|key| (key.purpose.as_str(), key.generation)).collect()
}

pub async fn fetch(keys: &dyn Keystore, id: &DekId) -> Fetched {
    keys.fetch(vec![id.clone()]).await.unwrap().remove(0)
}

async fn kid(keys: &dyn Keystore, id: &DekId) -> Kid {
    match fetch(keys, id).await {
        Fetched::Key(key) => key.kid(),
        other => panic!("no key: {other:?}"),
    }
}

macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        /// Mounts the suite on one engine.
        macro_rules! keystore_suite {
            ($rig:ty) => {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let Some(rig) = <$rig as $crate::conformance::keystore::Rig>::place() else { return };
                    $crate::conformance::keystore::$name(&rig).await;
                })+
            };
        }
        pub(crate) use keystore_suite;
    };
}

suite!(
    the_same_want_gets_the_same_key,
    keys_survive_reopening,
    people_and_purposes_have_keys_of_their_own,
    unknown_is_neither_key_nor_destroyed,
    a_want_without_purposes_makes_only_the_person,
    sixty_four_concurrent_wants_get_one_key,
    one_request_may_ask_twice,
    a_forgotten_person_is_gone_and_stays_gone,
    destroying_twice_reports_the_same,
    a_forgotten_purpose_leaves_the_others,
    a_purpose_is_refused_even_if_it_never_had_a_key,
    a_refused_want_makes_nothing,
    nothing_mints_a_key_for_the_forgotten,
    reauthorized_purposes_get_the_next_generation,
    a_repeated_order_spares_what_came_after_it,
    a_person_comes_back_under_a_new_pseudonym,
    there_is_nothing_to_reauthorize_where_nothing_is_erased,
    destroying_the_unknown_still_refuses_them,
    destruction_races_with_ensure,
    the_last_erasure_is_counted_and_survives,
    washed_files_hold_nothing_destroyed,
    residue_after_every_single_destruction,
    washing_twice_and_nothing,
    a_closed_keystore_is_unavailable,
    long_and_foreign_external_ids_come_back,
    a_lost_answer_is_repeated_without_harm,
    the_cache_answers_as_the_keystore_does,
    a_natural_key_finds_its_person,
    a_rename_keeps_the_person,
    people_are_never_merged,
    concurrent_wants_by_natural_key_get_one_person,
    a_forgotten_natural_key_is_nobodys,
    a_forgotten_purpose_leaves_the_natural_key,
    natural_keys_and_lost_answers,
    natural_keys_behind_the_cache,
    forgotten_natural_keys_leave_no_residue,
    an_epoch_moves_everything_and_changes_nothing,
    an_epoch_goes_on_where_it_stopped,
    a_forget_during_an_epoch_belongs_to_the_next,
    others_go_on_while_an_epoch_is_at_work,
    no_copy_opens_what_was_forgotten,
    an_epoch_leaves_no_residue,
    a_root_without_an_epoch_covers_nobody,
    a_shard_is_dirty_even_if_the_forgotten_are_not_in_it,
);

pub async fn the_same_want_gets_the_same_key(rig: &impl Rig) {
    let keys = rig.open();
    let first = granted(&*keys, want("ada", &["general", "marketing"])).await;
    assert_eq!(first, granted(&*keys, want("ada", &["general", "marketing"])).await);
    assert_eq!(first, granted(&*keys, want_ref(first.0, &["general", "marketing"])).await);
    assert_eq!(first.1[0].0, DekId { subject: first.0, purpose: purpose("general"), generation: 0 });
    assert_eq!(keys.resolve(vec![id("ada")]).await.unwrap(), [Resolved::Known(first.0)]);
    assert_eq!(keys.external_ids(vec![first.0]).await.unwrap(), [Some(id("ada"))]);
    for (dek, expected) in &first.1 {
        assert_eq!(kid(&*keys, dek).await, *expected);
    }
}

pub async fn keys_survive_reopening(rig: &impl Rig) {
    let keys = rig.open();
    let first = granted(&*keys, want("ada", &["general"])).await;
    drop(keys);
    let keys = rig.open();
    assert_eq!(first, granted(&*keys, want("ada", &["general"])).await);
    keys.close().await;
    let keys = rig.open();
    assert_eq!(kid(&*keys, &first.1[0].0).await, first.1[0].1);
    assert_eq!(keys.external_ids(vec![first.0]).await.unwrap(), [Some(id("ada"))]);
    assert_eq!(keys.stats().await.unwrap().active, 2);
}

pub async fn people_and_purposes_have_keys_of_their_own(rig: &impl Rig) {
    let keys = rig.open();
    let wants = (0..300).map(|n| want(&format!("p{n}"), &["general", "marketing"])).collect();
    let mut kids = HashSet::new();
    let mut people = HashSet::new();
    for granted in keys.ensure(wants).await.unwrap() {
        let Granted::Keys { subject, keys } = granted else { panic!() };
        people.insert(subject);
        kids.extend(keys.iter().map(|(_, key)| key.kid()));
    }
    assert_eq!((people.len(), kids.len()), (300, 600));
    let stats = keys.stats().await.unwrap();
    assert_eq!((stats.active, stats.destroyed, stats.subjects, stats.epoch), (900, 0, 300, 1));
}

pub async fn unknown_is_neither_key_nor_destroyed(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    let nobody = SubjectRef([9; 16]);
    for (subject, name, generation) in [(nobody, "general", 0), (ada, "marketing", 0), (ada, "general", 1)] {
        let dek = DekId { subject, purpose: purpose(name), generation };
        assert!(matches!(fetch(&*keys, &dek).await, Fetched::Unknown));
    }
    assert_eq!(keys.resolve(vec![id("ben")]).await.unwrap(), [Resolved::Unknown]);
    assert_eq!(keys.external_ids(vec![nobody]).await.unwrap(), [None]);
    let answer = keys.ensure(vec![want_ref(nobody, &["general"])]).await.unwrap().remove(0);
    assert!(matches!(answer, Granted::Unknown));
    assert_eq!(keys.resolve(vec![id("ben")]).await.unwrap(), [Resolved::Unknown]);
}

pub async fn a_want_without_purposes_makes_only_the_person(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, none) = granted(&*keys, want("ada", &[])).await;
    assert!(none.is_empty());
    assert_eq!(keys.resolve(vec![id("ada"), id("ben")]).await.unwrap(), [Resolved::Known(ada), Resolved::Unknown]);
}

pub async fn sixty_four_concurrent_wants_get_one_key(rig: &impl Rig) {
    let keys = rig.open();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { granted(&*keys, want("ada", &["general"])).await })
        })
        .collect();
    let mut answers = HashSet::new();
    for task in tasks {
        answers.insert(task.await.unwrap());
    }
    assert_eq!(answers.len(), 1);
    assert_eq!(keys.stats().await.unwrap().active, 2);
}

pub async fn one_request_may_ask_twice(rig: &impl Rig) {
    let keys = rig.open();
    let wants = vec![want("ada", &["general", "general"]), want("ada", &["general"])];
    let answers = keys.ensure(wants).await.unwrap();
    let mut kids = HashSet::new();
    for answer in &answers {
        let Granted::Keys { subject, keys } = answer else { panic!() };
        kids.extend(keys.iter().map(|(id, key)| (*subject, id.generation, key.kid())));
    }
    assert_eq!((answers.len(), kids.len()), (2, 1));
}

pub async fn a_forgotten_person_is_gone_and_stays_gone(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, deks) = granted(&*keys, want("ada", &["general", "marketing"])).await;
    let ben = granted(&*keys, want("ben", &["general"])).await;
    let done = keys.destroy(order(ada, &[], 1)).await.unwrap();
    assert_eq!(names(&done), [("$identity", 0), ("general", 0), ("marketing", 0)]);
    assert_eq!(done.keys[1].kid, deks[0].1);
    assert!(done.external_id_removed);
    for reopened in [false, true] {
        let keys = if reopened {
            keys.close().await;
            rig.open()
        } else {
            Arc::clone(&keys)
        };
        for (dek, _) in &deks {
            assert!(matches!(fetch(&*keys, dek).await, Fetched::Destroyed { at: Millis(1001) }));
        }
        assert_eq!(keys.resolve(vec![id("ada")]).await.unwrap(), [Resolved::Erased]);
        assert_eq!(keys.external_ids(vec![ada, ben.0]).await.unwrap(), [None, Some(id("ben"))]);
        assert_eq!(refused(&*keys, want("ada", &["general"])).await, (None, vec![]));
        assert_eq!(refused(&*keys, want("ada", &[])).await, (None, vec![]));
        assert_eq!(refused(&*keys, want_ref(ada, &["new"])).await, (None, vec![]));
        assert_eq!(ben, granted(&*keys, want("ben", &["general"])).await);
        let stats = keys.stats().await.unwrap();
        assert_eq!((stats.active, stats.destroyed, stats.subjects), (2, 3, 1));
    }
}

pub async fn destroying_twice_reports_the_same(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general", "marketing"])).await;
    let part = keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    assert_eq!(lasting(part.clone()), lasting(keys.destroy(order(ada, &["marketing"], 1)).await.unwrap()));
    let whole = keys.destroy(order(ada, &[], 2)).await.unwrap();
    let again = DestroyOrder { at: Millis(5), ..order(ada, &[], 2) };
    assert_eq!(lasting(whole.clone()), lasting(keys.destroy(again).await.unwrap()));
    assert_eq!(lasting(part.clone()), lasting(keys.destroy(order(ada, &["marketing"], 1)).await.unwrap()));
    keys.close().await;
    let keys = rig.open();
    assert_eq!(lasting(whole.clone()), lasting(keys.destroy(order(ada, &[], 2)).await.unwrap()));
    assert_eq!(names(&whole), [("$identity", 0), ("general", 0), ("marketing", 0)]);
    assert_eq!(keys.stats().await.unwrap().destroyed, 3);
}

pub async fn a_forgotten_purpose_leaves_the_others(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, deks) = granted(&*keys, want("ada", &["general", "marketing"])).await;
    let done = keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    assert_eq!(names(&done), [("marketing", 0)]);
    assert!(!done.external_id_removed);
    assert_eq!(kid(&*keys, &deks[0].0).await, deks[0].1);
    assert!(matches!(fetch(&*keys, &deks[1].0).await, Fetched::Destroyed { .. }));
    assert_eq!(keys.external_ids(vec![ada]).await.unwrap(), [Some(id("ada"))]);
    assert_eq!(refused(&*keys, want("ada", &["general", "marketing"])).await, (Some(ada), vec![purpose("marketing")]));
    assert_eq!(granted(&*keys, want("ada", &["general"])).await.1, deks[..1]);
}

pub async fn a_purpose_is_refused_even_if_it_never_had_a_key(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    let done = keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    assert!(done.keys.is_empty());
    assert_eq!(refused(&*keys, want("ada", &["marketing"])).await, (Some(ada), vec![purpose("marketing")]));
    assert_eq!(lasting(done.clone()), lasting(keys.destroy(order(ada, &["marketing"], 1)).await.unwrap()));
    assert_eq!(keys.stats().await.unwrap().destroyed, 0);
}

pub async fn a_refused_want_makes_nothing(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    keys.destroy(order(ada, &["general"], 1)).await.unwrap();
    let before = keys.stats().await.unwrap();
    refused(&*keys, want("ada", &["fresh", "general"])).await;
    assert_eq!(before, keys.stats().await.unwrap());
    let fresh = DekId { subject: ada, purpose: purpose("fresh"), generation: 0 };
    assert!(matches!(fetch(&*keys, &fresh).await, Fetched::Unknown));
}

/// The trap in which a store that makes keys on demand makes a new one for a person just forgotten.
pub async fn nothing_mints_a_key_for_the_forgotten(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    keys.destroy(order(ada, &[], 1)).await.unwrap();
    let before = keys.stats().await.unwrap();
    for _ in 0..3 {
        refused(&*keys, want("ada", &["general"])).await;
        refused(&*keys, want_ref(ada, &["general"])).await;
        refused(&*keys, want_ref(ada, &["never-seen"])).await;
    }
    keys.close().await;
    let keys = rig.open();
    refused(&*keys, want("ada", &["general"])).await;
    assert_eq!(before, keys.stats().await.unwrap());
}

pub async fn reauthorized_purposes_get_the_next_generation(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, old) = granted(&*keys, want("ada", &["marketing"])).await;
    keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    let again = keys.reauthorize(SubjectKey::Ref(ada), vec![purpose("marketing")]).await.unwrap();
    assert_eq!(again, Some(ada));
    let (same, new) = granted(&*keys, want("ada", &["marketing"])).await;
    assert_eq!((same, new[0].0.generation), (ada, 1));
    assert_ne!(new[0].1, old[0].1);
    assert!(matches!(fetch(&*keys, &old[0].0).await, Fetched::Destroyed { .. }));
    assert_eq!(kid(&*keys, &new[0].0).await, new[0].1);
    let both = keys.destroy(order(ada, &["marketing"], 2)).await.unwrap();
    assert_eq!(names(&both), [("marketing", 0), ("marketing", 1)]);
    refused(&*keys, want("ada", &["marketing"])).await;
}

/// At start-up the worker repeats orders that it cannot know to be done.
pub async fn a_repeated_order_spares_what_came_after_it(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["marketing"])).await;
    let first = keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    keys.reauthorize(SubjectKey::External(id("ada")), vec![purpose("marketing")]).await.unwrap();
    let (_, new) = granted(&*keys, want("ada", &["marketing"])).await;
    assert_eq!(lasting(first.clone()), lasting(keys.destroy(order(ada, &["marketing"], 1)).await.unwrap()));
    assert_eq!(kid(&*keys, &new[0].0).await, new[0].1);
}

pub async fn a_person_comes_back_under_a_new_pseudonym(rig: &impl Rig) {
    let keys = rig.open();
    let (old, deks) = granted(&*keys, want("ada", &["general"])).await;
    keys.destroy(order(old, &[], 1)).await.unwrap();
    let new = keys.reauthorize(SubjectKey::External(id("ada")), vec![]).await.unwrap().unwrap();
    assert_ne!(new, old);
    assert_eq!(keys.reauthorize(SubjectKey::External(id("ada")), vec![]).await.unwrap(), None);
    let (same, fresh) = granted(&*keys, want("ada", &["general"])).await;
    assert_eq!((same, fresh[0].0.generation), (new, 0));
    assert_eq!(keys.external_ids(vec![old, new]).await.unwrap(), [None, Some(id("ada"))]);
    assert!(matches!(fetch(&*keys, &deks[0].0).await, Fetched::Destroyed { .. }));
    refused(&*keys, want_ref(old, &["general"])).await;
    // The old order again does not reach the new pseudonym.
    keys.destroy(order(old, &[], 1)).await.unwrap();
    assert_eq!(kid(&*keys, &fresh[0].0).await, fresh[0].1);
    assert_eq!(keys.resolve(vec![id("ada")]).await.unwrap(), [Resolved::Known(new)]);
}

pub async fn there_is_nothing_to_reauthorize_where_nothing_is_erased(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    for (subject, purposes) in [
        (SubjectKey::External(id("nobody")), vec![]),
        (SubjectKey::Ref(SubjectRef([9; 16])), vec![purpose("general")]),
        (SubjectKey::External(id("ada")), vec![]),
        (SubjectKey::Ref(ada), vec![purpose("general")]),
    ] {
        assert_eq!(keys.reauthorize(subject, purposes).await.unwrap(), None);
    }
    keys.destroy(order(ada, &[], 1)).await.unwrap();
    assert_eq!(keys.reauthorize(SubjectKey::Ref(ada), vec![purpose("general")]).await.unwrap(), None);
    assert_eq!(keys.resolve(vec![id("nobody"), id("ada")]).await.unwrap(), [Resolved::Unknown, Resolved::Erased]);
}

/// A keystore restored from before the person was made known is told to forget them all the same.
pub async fn destroying_the_unknown_still_refuses_them(rig: &impl Rig) {
    let keys = rig.open();
    let nobody = SubjectRef([9; 16]);
    let done = keys.destroy(order(nobody, &[], 1)).await.unwrap();
    assert_eq!(done, Destruction { keys: vec![], external_id_removed: false, revocation: done.revocation });
    assert_eq!(lasting(done.clone()), lasting(keys.destroy(order(nobody, &[], 1)).await.unwrap()));
    refused(&*keys, want_ref(nobody, &["general"])).await;
    let dek = DekId { subject: nobody, purpose: purpose("general"), generation: 3 };
    assert!(matches!(fetch(&*keys, &dek).await, Fetched::Destroyed { at: Millis(1001) }));
}

pub async fn destruction_races_with_ensure(rig: &impl Rig) {
    let keys = rig.open();
    for n in 0..30_u64 {
        let name = format!("p{n}");
        let (person, _) = granted(&*keys, want(&name, &["general"])).await;
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (keys, name) = (Arc::clone(&keys), name.clone());
                tokio::spawn(async move {
                    let wanted = format!("purpose-{task}");
                    keys.ensure(vec![want(&name, &["general", &wanted])]).await.unwrap().remove(0)
                })
            })
            .collect();
        keys.destroy(order(person, &[], n + 1)).await.unwrap();
        for task in tasks {
            // Granted before the destruction or refused after it; a key granted before is destroyed now.
            match task.await.unwrap() {
                Granted::Keys { keys: granted, .. } => {
                    for (dek, _) in granted {
                        assert!(matches!(fetch(&*keys, &dek).await, Fetched::Destroyed { .. }));
                    }
                }
                Granted::Erased { subject, .. } => assert_eq!(subject, None),
                Granted::Taken | Granted::Unknown => panic!("unknown"),
            }
        }
    }
    let stats = keys.stats().await.unwrap();
    assert_eq!((stats.active, stats.subjects), (0, 0));
}

pub async fn the_last_erasure_is_counted_and_survives(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, want("ada", &["general"])).await;
    assert_eq!(keys.stats().await.unwrap().applied_erasure, 0);
    keys.destroy(order(ada, &["general"], 7)).await.unwrap();
    keys.destroy(order(ada, &["other"], 6)).await.unwrap();
    assert_eq!(keys.stats().await.unwrap().applied_erasure, 7);
    drop(keys);
    assert_eq!(rig.open().stats().await.unwrap().applied_erasure, 7);
}

pub async fn a_closed_keystore_is_unavailable(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, deks) = granted(&*keys, want("ada", &["general"])).await;
    keys.close().await;
    keys.close().await;
    let closed = |result: Option<KeystoreError>| matches!(result, Some(KeystoreError::Unavailable { .. }));
    assert!(closed(keys.resolve(vec![id("ada")]).await.err()));
    assert!(closed(keys.ensure(vec![want("ada", &["general"])]).await.err()));
    assert!(closed(keys.fetch(vec![deks[0].0.clone()]).await.err()));
    assert!(closed(keys.external_ids(vec![ada]).await.err()));
    assert!(closed(keys.destroy(order(ada, &[], 1)).await.err()));
    assert!(closed(keys.wash().await.err()));
    assert!(closed(keys.reauthorize(SubjectKey::Ref(ada), vec![]).await.err()));
    assert!(closed(keys.stats().await.err()));
}

pub async fn long_and_foreign_external_ids_come_back(rig: &impl Rig) {
    let keys = rig.open();
    for text in ["x", &"y".repeat(256), "Ærø/Ødegård 7", "ada@example.org", "' or 1=1 --", &"ж".repeat(128)] {
        let (subject, _) = granted(&*keys, want(text, &[])).await;
        assert_eq!(keys.external_ids(vec![subject]).await.unwrap(), [Some(id(text))]);
    }
    keys.close().await;
    for (name, bytes) in rig.files() {
        let clear = bytes.windows(15).any(|window| window == b"ada@example.org");
        assert!(!clear, "an external id stands in clear in {name}");
    }
}
