//! People found by natural key: what every keystore engine promises about them, and what is left of the forgotten.

use std::sync::Arc;

use oubliette::event::{NaturalKey, SubjectKey, SubjectRef};
use oubliette::keystore::{CachedKeystore, Fetched, Granted, KeyCache, Keystore, KeystoreError, Resolved, Scope, Want};
use serde_json::json;

use crate::conformance::keystore::{Rig, fetch, granted, names, order, purpose, want, want_as, want_ref};
use crate::conformance::lasting;
use crate::conformance::remanence::found;
use crate::faulty::{Fault, Faulty, Method, Rate};

/// A contact by account and name.
pub fn contact(name: &str) -> NaturalKey {
    NaturalKey::new("contact", &[&json!("a1"), &json!(name)]).unwrap()
}

fn by_name(name: &str, purposes: &[&str]) -> Want {
    want_as(SubjectKey::Natural(contact(name)), purposes)
}

fn rename(name: &str, new: &str, purposes: &[&str]) -> Want {
    Want { also: Some(contact(new)), ..by_name(name, purposes) }
}

async fn resolved(keys: &dyn Keystore, names: &[&str]) -> Vec<Resolved> {
    keys.resolve_natural(names.iter().map(|name| contact(name)).collect()).await.unwrap()
}

async fn subjects(keys: &dyn Keystore, wants: Vec<Want>) -> Vec<Option<SubjectRef>> {
    let subject = |answer: Granted| match answer {
        Granted::Keys { subject, .. } => Some(subject),
        Granted::Taken => None,
        other => panic!("not granted: {other:?}"),
    };
    keys.ensure(wants).await.unwrap().into_iter().map(subject).collect()
}

pub async fn a_natural_key_finds_its_person(rig: &impl Rig) {
    let keys = rig.open();
    assert_eq!(resolved(&*keys, &["Ada King"]).await, [Resolved::Unknown]);
    let first = granted(&*keys, by_name("Ada King", &["general"])).await;
    assert_eq!(first, granted(&*keys, by_name("Ada King", &["general"])).await);
    assert_eq!(first, granted(&*keys, want_ref(first.0, &["general"])).await);
    let other = NaturalKey::new("guest", &[&json!("a1"), &json!("Ada King")]).unwrap();
    let (other, _) = granted(&*keys, want_as(SubjectKey::Natural(other), &[])).await;
    let (ben, _) = granted(&*keys, by_name("Ben King", &[])).await;
    let (external, _) = granted(&*keys, want("Ada King", &[])).await;
    let mut all = vec![first.0, other, ben, external];
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4, "a role, a value and an id of one's own are each another person");
    assert_eq!(keys.external_ids(vec![first.0]).await.unwrap(), [None]);
    assert_eq!(keys.stats().await.unwrap().subjects, 4);
    keys.close().await;
    let keys = rig.open();
    assert_eq!(first, granted(&*keys, by_name("Ada King", &["general"])).await);
    assert_eq!(resolved(&*keys, &["Ben King", "Ada King"]).await, [Resolved::Known(ben), Resolved::Known(first.0)]);
    assert_eq!(keys.stats().await.unwrap().subjects, 4);
    keys.close().await;
    for (name, bytes) in rig.files() {
        assert!(!bytes.windows(8).any(|window| window == b"Ada King"), "a natural key stands in clear in {name}");
    }
}

pub async fn a_rename_keeps_the_person(rig: &impl Rig) {
    let keys = rig.open();
    let wants = || {
        vec![
            by_name("Ada King", &["general"]),
            rename("Ada King", "Ada Byron", &["general"]),
            by_name("Ada Byron", &["general"]),
            rename("Ada Byron", "Ada Lovelace", &[]),
            by_name("Ada Lovelace", &[]),
        ]
    };
    let people = subjects(&*keys, wants()).await;
    assert!(people.iter().all(|person| person.is_some() && *person == people[0]), "{people:?}");
    assert_eq!(people, subjects(&*keys, wants()).await, "twice");
    let ada = people[0].unwrap();
    let same = [Resolved::Known(ada); 3];
    assert_eq!(resolved(&*keys, &["Ada King", "Ada Byron", "Ada Lovelace"]).await, same);
    assert_eq!(keys.stats().await.unwrap().subjects, 1);
    // A person first met at a renaming is known by both names.
    let people = subjects(&*keys, vec![rename("Bob Ray", "Bob Roy", &[]), by_name("Bob Roy", &[])]).await;
    assert_eq!(people[0], people[1]);
    // A further key beside anything but a natural key means nothing.
    granted(&*keys, Want { also: Some(contact("Eve")), ..want("eve", &[]) }).await;
    assert_eq!(resolved(&*keys, &["Eve"]).await, [Resolved::Unknown]);
    drop(keys);
    assert_eq!(resolved(&*rig.open(), &["Ada King", "Ada Byron", "Ada Lovelace"]).await, same);
}

pub async fn people_are_never_merged(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, by_name("Ada King", &[])).await;
    let (ben, _) = granted(&*keys, by_name("Ben Ray", &[])).await;
    let before = keys.stats().await.unwrap();
    for taken in [rename("Ada King", "Ben Ray", &["general"]), rename("Nobody Yet", "Ben Ray", &["general"])] {
        assert_eq!(subjects(&*keys, vec![taken]).await, [None]);
    }
    assert_eq!(keys.stats().await.unwrap(), before, "a refused want makes nothing");
    let found = resolved(&*keys, &["Ada King", "Ben Ray", "Nobody Yet"]).await;
    assert_eq!(found, [Resolved::Known(ada), Resolved::Known(ben), Resolved::Unknown]);
}

pub async fn concurrent_wants_by_natural_key_get_one_person(rig: &impl Rig) {
    let keys = rig.open();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let keys = Arc::clone(&keys);
            let wanted = if n % 2 == 0 { by_name("Ada King", &["general"]) } else { rename("Ada King", "Ada B", &[]) };
            tokio::spawn(async move { subjects(&*keys, vec![wanted]).await[0].unwrap() })
        })
        .collect();
    let mut people = Vec::new();
    for task in tasks {
        people.push(task.await.unwrap());
    }
    people.dedup();
    assert_eq!(people.len(), 1);
    let stats = keys.stats().await.unwrap();
    assert_eq!((stats.subjects, stats.active), (1, 1));
}

pub async fn a_forgotten_natural_key_is_nobodys(rig: &impl Rig) {
    let keys = rig.open();
    let (old, deks) = granted(&*keys, rename("Ada King", "Ada Byron", &["general"])).await;
    let done = keys.destroy(order(old, &[], 1)).await.unwrap();
    assert_eq!((names(&done), done.external_id_removed), (vec![("general", 0)], false));
    assert_eq!(resolved(&*keys, &["Ada King", "Ada Byron"]).await, [Resolved::Unknown; 2]);
    assert!(matches!(keys.ensure(vec![want_ref(old, &[])]).await.unwrap()[0], Granted::Erased { .. }));
    assert_eq!(keys.stats().await.unwrap().subjects, 0);
    // The names are free again, one by one, for whoever has them now.
    let (new, _) = granted(&*keys, by_name("Ada Byron", &["general"])).await;
    let (third, _) = granted(&*keys, by_name("Ada King", &["general"])).await;
    assert!(new != old && third != old && third != new);
    assert_eq!(
        lasting(done.clone()),
        lasting(keys.destroy(order(old, &[], 1)).await.unwrap()),
        "the old order again reaches nobody new"
    );
    assert_eq!(resolved(&*keys, &["Ada King", "Ada Byron"]).await, [Resolved::Known(third), Resolved::Known(new)]);
    assert!(matches!(fetch(&*keys, &deks[0].0).await, Fetched::Destroyed { .. }));
    assert_eq!(keys.reauthorize(SubjectKey::Ref(old), vec![purpose("general")]).await.unwrap(), None);
    drop(keys);
    assert_eq!(resolved(&*rig.open(), &["Ada Byron"]).await, [Resolved::Known(new)]);
}

pub async fn a_forgotten_purpose_leaves_the_natural_key(rig: &impl Rig) {
    let keys = rig.open();
    let (ada, _) = granted(&*keys, by_name("Ada King", &["general", "marketing"])).await;
    keys.destroy(order(ada, &["marketing"], 1)).await.unwrap();
    assert_eq!(resolved(&*keys, &["Ada King"]).await, [Resolved::Known(ada)]);
    let refused = keys.ensure(vec![rename("Ada King", "Ada Byron", &["marketing"])]).await.unwrap().remove(0);
    assert!(matches!(refused, Granted::Erased { subject: Some(subject), .. } if subject == ada));
    assert_eq!(resolved(&*keys, &["Ada Byron"]).await, [Resolved::Unknown], "a refused want makes nothing");
    assert_eq!(granted(&*keys, by_name("Ada King", &["general"])).await.0, ada);
    let again = keys.reauthorize(SubjectKey::Natural(contact("Ada King")), vec![purpose("marketing")]).await.unwrap();
    assert_eq!(again, Some(ada));
    let unknown = SubjectKey::Natural(contact("Ben"));
    assert_eq!(keys.reauthorize(unknown, vec![purpose("marketing")]).await.unwrap(), None);
}

pub async fn natural_keys_and_lost_answers(rig: &impl Rig) {
    let keys = Faulty::new(rig.open(), 7);
    for fault in [Fault::Before, Fault::After] {
        keys.fail(Method::Ensure, fault, Rate::Next(1));
        assert!(keys.ensure(vec![rename("Ada King", "Ada Byron", &["general"])]).await.is_err());
    }
    let (ada, _) = granted(&keys, by_name("Ada Byron", &["general"])).await;
    assert_eq!(granted(&keys, rename("Ada King", "Ada Byron", &["general"])).await.0, ada);
    assert_eq!(keys.stats().await.unwrap().subjects, 1);
    keys.fail(Method::ResolveNatural, Fault::After, Rate::Next(1));
    let lost = keys.resolve_natural(vec![contact("Ada King")]).await;
    assert!(matches!(lost, Err(KeystoreError::Unavailable { .. })));
    for fault in [Fault::Before, Fault::After] {
        keys.fail(Method::Destroy, fault, Rate::Next(1));
        assert!(keys.destroy(order(ada, &[], 1)).await.is_err());
        let left = if fault == Fault::After { Resolved::Unknown } else { Resolved::Known(ada) };
        assert_eq!(resolved(&keys, &["Ada King", "Ada Byron"]).await, [left; 2]);
    }
    keys.destroy(order(ada, &[], 1)).await.unwrap();
    keys.close().await;
    assert!(keys.resolve_natural(vec![contact("Ada King")]).await.is_err());
}

pub async fn natural_keys_behind_the_cache(rig: &impl Rig) {
    let faulty = Arc::new(Faulty::new(rig.open(), 1));
    let cached = CachedKeystore::new(faulty.clone(), KeyCache::new(1000).unwrap());
    let ensure = async |wants: Vec<Want>| -> Vec<SubjectRef> {
        let subject = |answer| if let Granted::Keys { subject, .. } = answer { subject } else { panic!("{answer:?}") };
        cached.ensure(wants).await.unwrap().into_iter().map(subject).collect()
    };
    let (ext, _) = granted(&*faulty, want("ext", &["general"])).await;
    ensure(vec![want("ext", &["general"])]).await;
    // Cached and uncached wants in one question, in order.
    let all = ensure(vec![
        by_name("Ada King", &["general"]),
        want("ext", &["general"]),
        rename("Ada King", "Ada Byron", &["general"]),
        by_name("Ada Byron", &["general"]),
    ])
    .await;
    assert_eq!(all, [all[0], ext, all[0], all[0]]);
    let asked = faulty.calls(Method::Ensure);
    ensure(vec![by_name("Ada King", &["general"])]).await;
    assert_eq!(faulty.calls(Method::Ensure), asked + 1, "natural keys are asked for each time");
    let known = vec![contact("Ada King")];
    assert_eq!(cached.resolve_natural(known.clone()).await.unwrap(), [Resolved::Known(all[0])]);
    // The keystore has destroyed and nobody has evicted yet: the name is not the old person's any more.
    faulty.destroy(order(all[0], &[], 1)).await.unwrap();
    assert_eq!(cached.resolve_natural(known).await.unwrap(), [Resolved::Unknown]);
    let new = ensure(vec![by_name("Ada King", &["general"])]).await[0];
    assert_ne!(new, all[0]);
    cached.evict(all[0], &Scope::Person);
    assert_eq!(ensure(vec![by_name("Ada King", &["general"])]).await, [new]);
}

/// People come and go with several names each: no look-up tree that is balanced keeps a tag or its pseudonym.
pub async fn forgotten_natural_keys_leave_no_residue(rig: &impl Rig) {
    let mut seen: Vec<(SubjectRef, Vec<u8>)> = Vec::new();
    let (mut people, mut dead, mut erasure) = (Vec::new(), Vec::new(), 0);
    for round in 0..5 {
        let keys = rig.open();
        for chunk in (0..400).collect::<Vec<_>>().chunks(50) {
            let name = |n: &i32, more: &str| format!("r{round}-{n}{more}");
            let wants = chunk.iter().map(|n| rename(&name(n, ""), &name(n, " the second"), &[])).collect();
            people.extend(subjects(&*keys, wants).await.into_iter().flatten());
        }
        keys.close().await;
        let present = rig.secrets();
        let entries: Vec<&[u8]> = present.iter().map(|(_, entry)| entry.as_slice()).collect();
        assert_eq!(found(rig, &entries), entries.len(), "the scan finds what is there");
        seen.extend(present.into_iter().filter(|(subject, _)| subject.0[3] % 2 == 0));
        let keys = rig.open();
        let (go, stay): (Vec<_>, Vec<_>) = people.into_iter().partition(|subject| subject.0[3].is_multiple_of(2));
        people = stay;
        for subject in go {
            erasure += 1;
            keys.destroy(order(subject, &[], erasure)).await.unwrap();
            dead.push(subject);
        }
        keys.wash().await.unwrap();
        let gone: Vec<&[u8]> =
            seen.iter().filter(|(subject, _)| dead.contains(subject)).map(|(_, entry)| entry.as_slice()).collect();
        assert!(gone.len() >= 2 * dead.len(), "{} entries of {} people", gone.len(), dead.len());
        // The tag alone; the pseudonym behind it stays in the tombstone.
        let tags: Vec<&[u8]> = gone.iter().map(|entry| &entry[..32]).collect();
        assert_eq!(found(rig, &tags), 0, "round {round}, {} destroyed", dead.len());
        keys.close().await;
    }
}
