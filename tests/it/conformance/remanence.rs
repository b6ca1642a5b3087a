//! What is left of destroyed keys in an engine's files: after a wash, nothing.

use std::collections::HashSet;

use oubliette::event::SubjectRef;
use oubliette::keystore::{DekId, Fetched, Granted, Keystore};

use crate::conformance::keystore::{Rig, granted, order, purpose, want};

/// How many of the secrets have a fragment of 20 bytes in one of the files.
pub fn found(rig: &impl Rig, secrets: &[&[u8]]) -> usize {
    let windows: HashSet<&[u8]> = secrets.iter().flat_map(|secret| secret.windows(20)).collect();
    let mut starts = vec![false; 1 << 16];
    for window in &windows {
        starts[usize::from(window[0]) << 8 | usize::from(window[1])] = true;
    }
    let mut hits = HashSet::new();
    for (_, bytes) in rig.files() {
        let here = bytes.windows(20).filter(|w| starts[usize::from(w[0]) << 8 | usize::from(w[1])]);
        hits.extend(here.filter(|window| windows.contains(window)).map(<[u8]>::to_vec));
    }
    secrets.iter().filter(|secret| secret.windows(20).any(|window| hits.contains(window))).count()
}

async fn populate(keys: &dyn Keystore, people: usize) -> Vec<SubjectRef> {
    let mut subjects = Vec::new();
    for chunk in (0..people).collect::<Vec<_>>().chunks(20) {
        let wants = chunk.iter().map(|n| want(&format!("p{n}"), &["general", "marketing"])).collect();
        for answer in keys.ensure(wants).await.unwrap() {
            let Granted::Keys { subject, .. } = answer else { panic!() };
            subjects.push(subject);
        }
    }
    subjects
}

pub async fn washed_files_hold_nothing_destroyed(rig: &impl Rig) {
    let keys = rig.open();
    let subjects = populate(&*keys, 3000).await;
    let (victims, alive) = subjects.split_at(300);
    keys.close().await;
    let all = rig.secrets();
    let secrets: Vec<&[u8]> =
        all.iter().filter(|(subject, _)| victims.contains(subject)).map(|(_, secret)| secret.as_slice()).collect();
    assert_eq!(secrets.len(), 300 * 4);
    let keys = rig.open();
    assert_eq!(found(rig, &secrets), secrets.len(), "the scan finds what is there");
    for (n, victim) in victims.iter().enumerate() {
        keys.destroy(order(*victim, &[], n as u64 + 1)).await.unwrap();
    }
    assert!(keys.wash().await.unwrap().bytes > 0);
    assert_eq!(found(rig, &secrets), 0);
    keys.close().await;
    assert_eq!(found(rig, &secrets), 0);
    let keys = rig.open();
    for chunk in alive.chunks(500) {
        let ids = chunk
            .iter()
            .map(|subject| DekId { subject: *subject, purpose: purpose("marketing"), generation: 0 })
            .collect();
        assert!(keys.fetch(ids).await.unwrap().iter().all(|answer| matches!(answer, Fetched::Key(_))));
    }
}

/// People come and go in turn, so that pages split, merge and are used again: no move may leave a copy behind.
pub async fn residue_after_every_single_destruction(rig: &impl Rig) {
    let mut seen: Vec<(SubjectRef, Vec<u8>)> = Vec::new();
    let (mut erasure, mut dead) = (0, HashSet::new());
    for round in 0..6 {
        let keys = rig.open();
        for n in 0..400 {
            let name = format!("r{round}-{n}");
            granted(&*keys, want(&name, &["a", "b", "a-much-longer-name-of-a-purpose"][..=n % 3])).await;
        }
        keys.close().await;
        seen.extend(rig.secrets().into_iter().filter(|row| row.0.0[15] % 8 != 0 || round == 5));
        let keys = rig.open();
        let mut people: Vec<_> = seen.iter().map(|(subject, _)| *subject).collect();
        people.sort_unstable_by_key(|subject| subject.0[7]);
        people.dedup();
        for subject in people.into_iter().filter(|subject| subject.0[3] % 2 == 0) {
            if dead.insert(subject) {
                erasure += 1;
                keys.destroy(order(subject, &[], erasure)).await.unwrap();
            }
        }
        keys.wash().await.unwrap();
        let secrets: Vec<&[u8]> =
            seen.iter().filter(|(subject, _)| dead.contains(subject)).map(|(_, secret)| secret.as_slice()).collect();
        assert_eq!(found(rig, &secrets), 0, "round {round}, {} destroyed", dead.len());
        keys.close().await;
    }
}

pub async fn washing_twice_and_nothing(rig: &impl Rig) {
    let keys = rig.open();
    keys.wash().await.unwrap();
    populate(&*keys, 100).await;
    keys.wash().await.unwrap();
    let size = || rig.files().iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let before = size();
    for _ in 0..50 {
        keys.wash().await.unwrap();
    }
    assert!(size() <= before + 64 * 1024, "washing makes the files grow: {before} to {}", size());
    granted(&*keys, want("p1", &["general"])).await;
}
