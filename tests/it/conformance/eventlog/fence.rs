//! Fences, and everything in the database that refuses to change.

use oubliette::event::SubjectRef;
use oubliette::eventlog::{Effect, FenceState, Job, Refused};

use super::{
    ANY, About, Maker, Rig, commit, commit_all, effects, everything, exactly, fence, job, of_stream, person, purpose,
    read, refused,
};

fn general(number: u8) -> About<'static> {
    (person(number), Some(("general", 0)))
}

fn erased(number: u8) -> Refused {
    Refused::DataSubjectErased { subject: person(number) }
}

fn reauthorize(subject: SubjectRef, purposes: &[&str]) -> Job {
    let purposes = purposes.iter().map(|name| purpose(name)).collect();
    effects(vec![Effect::Reauthorize { subject, purposes }])
}

pub async fn a_fenced_person_takes_no_slot(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[general(1)])])).await;
    commit(&*log, effects(vec![fence(person(1), &[], "fr_1")])).await;
    for reopened in [false, true] {
        let log = if reopened {
            log.close().await;
            rig.open()
        } else {
            std::sync::Arc::clone(&log)
        };
        for slot in [("general", 0), ("marketing", 0), ("general", 1), ("general", u32::MAX)] {
            let event = make.about("t", &[general(2), (person(1), Some(slot))]);
            assert_eq!(refused(&*log, job("a-1", ANY, vec![event])).await, erased(1));
        }
        commit(&*log, job("a-1", ANY, vec![make.about("t", &[general(2)])])).await;
    }
}

pub async fn a_fenced_purpose_leaves_the_others(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, effects(vec![fence(person(1), &["marketing", "support"], "fr_1")])).await;
    for name in ["marketing", "support"] {
        let event = make.about("t", &[(person(1), Some((name, 0)))]);
        assert_eq!(refused(&*log, job("a-1", ANY, vec![event])).await, erased(1));
    }
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[general(1)])])).await;
    let fences = log.fences(vec![person(1), person(2)]).await.unwrap();
    assert!(fences.covering(&person(1), "marketing", 0).is_some());
    assert!(fences.covering(&person(1), "general", 0).is_none());
    assert!(!fences.0.contains_key(&person(2)));
    assert_eq!(fences.epoch(), 1);
}

pub async fn a_fence_holds_for_later_jobs_of_its_batch(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let append = |number| job("a-1", ANY, vec![make.about("t", &[general(number)])]);
    let marketing = |number| job("a-1", ANY, vec![make.about("t", &[(person(number), Some(("marketing", 0)))])]);
    let fences = || effects(vec![fence(person(1), &[], "fr_1"), fence(person(2), &["general"], "fr_2")]);
    let batch = vec![append(1), append(2), fences(), append(1), append(2), marketing(1), marketing(2)];
    let outcomes = commit_all(&*log, batch).await;
    assert!(outcomes[..3].iter().all(Result::is_ok));
    assert_eq!(outcomes[3..6], [Err(erased(1)), Err(erased(2)), Err(erased(1))]);
    assert!(outcomes[6].is_ok());
    // What the first two said is there, and behind the fence.
    let page = read(&*log, everything()).await;
    assert_eq!(page.events.len(), 3);
    assert!(page.fences.covering(&person(2), "general", 0).is_some());
    assert_eq!(log.head().await.unwrap().erasure_epoch, 2);
}

pub async fn a_refused_job_does_not_fence(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let refused = Job { effects: vec![fence(person(1), &[], "fr_1")], ..job("a-1", exactly(3), vec![make.plain("t")]) };
    let outcomes = commit_all(&*log, vec![refused, job("a-1", ANY, vec![make.about("t", &[general(1)])])]).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok());
    assert!(log.erasures(0, 10).await.unwrap().is_empty());
}

pub async fn naming_a_person_under_a_fence(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let naming = |who| job("a-1", ANY, vec![make.about("t", &[(who, None)])]);
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_1")])).await;
    commit(&*log, naming(person(1))).await;
    assert_eq!(log.footprint(person(1), None, 10).await.unwrap()[0].slot, None);
    commit(&*log, effects(vec![fence(person(2), &[], "fr_2")])).await;
    assert_eq!(refused(&*log, naming(person(2))).await, erased(2));
    assert_eq!(log.footprint(person(2), None, 10).await.unwrap(), []);
}

pub async fn a_reauthorised_purpose_continues_with_the_next_generation(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let append = |generation| job("a-1", ANY, vec![make.about("t", &[(person(1), Some(("news", generation)))])]);
    let covered = async |generation| {
        let fences = log.fences(vec![person(1)]).await.unwrap();
        fences.covering(&person(1), "news", generation).is_some()
    };
    commit(&*log, append(0)).await;
    for round in 0..3 {
        commit(&*log, effects(vec![fence(person(1), &["news"], &format!("fr_{round}"))])).await;
        assert!(covered(round).await);
        assert_eq!(refused(&*log, append(round)).await, erased(1));
        let before = log.fences(vec![person(1)]).await.unwrap();
        assert!(!before.0[&person(1)][0].reauthorized);
        // Twice is once.
        commit(&*log, reauthorize(person(1), &["news"])).await;
        commit(&*log, reauthorize(person(1), &["news"])).await;
        assert!(log.fences(vec![person(1)]).await.unwrap().0[&person(1)][0].reauthorized);
        assert!(covered(round).await && !covered(round + 1).await);
        assert_eq!(refused(&*log, append(round)).await, erased(1), "the old generation stays fenced");
        commit(&*log, append(round + 1)).await;
    }
    // Fencing twice without a new authorisation moves nothing.
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_8")])).await;
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_9")])).await;
    assert_eq!(log.fences(vec![person(1)]).await.unwrap().0[&person(1)][0].generation, 3);
    // A fence that is not open covers every generation: a keystore may know of a re-authorisation that this log does not.
    assert!(covered(3).await && covered(4).await);
    assert_eq!(refused(&*log, append(4)).await, erased(1));
    commit(&*log, reauthorize(person(1), &["news"])).await;
    assert!(covered(3).await && !covered(4).await);
}

pub async fn nothing_reauthorises_a_whole_person(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_1")])).await;
    commit(&*log, effects(vec![fence(person(1), &[], "fr_2")])).await;
    commit(&*log, reauthorize(person(1), &["news", "general"])).await;
    for slot in [("news", 1), ("general", 1), ("other", 0)] {
        let event = make.about("t", &[(person(1), Some(slot))]);
        assert_eq!(refused(&*log, job("a-1", ANY, vec![event])).await, erased(1));
    }
}

pub async fn the_database_refuses_a_slot_behind_a_fence(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let event = make.about("t", &[general(1), general(2), (person(3), Some(("news", 0)))]);
    commit(&*log, job("a-1", ANY, vec![event])).await;
    commit(&*log, effects(vec![fence(person(1), &[], "fr_1"), fence(person(3), &["news"], "fr_2")])).await;
    let insert = |number: u8, slot: i32, name: &str, generation: u32| {
        rig.execute(&format!(
            "insert into footprint(subject, position, slot, purpose, generation)
             values ({}, 0, {slot}, (select id from names where text = '{name}'), {generation})",
            rig.bytes(&person(number).0)
        ))
    };
    for (number, slot, name, generation) in [(1, 7, "general", 0), (1, 7, "news", 9), (3, 7, "news", 0)] {
        let refusal = insert(number, slot, name, generation).unwrap_err();
        assert!(refusal.contains("data-subject-erased"), "{refusal}");
    }
    for (number, slot, name, generation) in
        [(1, -1, "general", 0), (2, 7, "general", 0), (3, 7, "general", 0), (3, 8, "news", 1)]
    {
        assert_eq!(insert(number, slot, name, generation), Ok(1));
    }
}

pub async fn a_page_brings_the_fences_of_everyone_in_it(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[general(1), (person(2), None)])])).await;
    commit(&*log, job("b-1", ANY, vec![make.about("t", &[general(3)])])).await;
    assert!(read(&*log, everything()).await.fences.0.is_empty());
    for number in 1..=4 {
        commit(&*log, effects(vec![fence(person(number), &[], &format!("fr_{number}"))])).await;
    }
    let page = read(&*log, of_stream("a-1")).await;
    let mut people: Vec<_> = page.fences.0.keys().copied().collect();
    people.sort_unstable();
    // The second is only named, but its external id may not be shown any more either.
    assert_eq!(people, [person(1), person(2)]);
    assert_eq!(page.fences.epoch(), 2);
    let fence = &page.fences.0[&person(1)][0];
    assert_eq!((&fence.purpose, fence.state, fence.request.as_str()), (&None, FenceState::Erased, "fr_1"));
    assert_eq!((fence.basis.as_str(), fence.at.0, fence.epoch), ("gdpr:A17-1-b", 1000, 1));
}

pub async fn history_refuses_to_be_changed(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let request =
        Effect::Request { id: "fr_1".into(), subject: person(1), status: "fenced", due: oubliette::clock::Millis(1) };
    let event = make.about("t", &[general(1)]);
    let done = Effect::Completed { request: "fr_1".into() };
    let batch = vec![
        job("a-1", ANY, vec![event, make.with_id(1, "u")]),
        effects(vec![fence(person(1), &[], "fr_1"), request, done]),
    ];
    commit_all(&*log, batch).await;
    let entry = super::records::access(person(1), 5, "ak_1");
    log.commit(oubliette::eventlog::Batch { jobs: vec![], access: vec![entry] }).await.unwrap();
    let (id, hash) = (rig.bytes(&[9; 16]), rig.bytes(&[9; 32]));
    let salts = rig.bytes(&[9; 64]);
    let mut statements = vec![];
    for (column, value) in [
        ("position", "99"),
        ("event_id", id.as_str()),
        ("stream", "99"),
        ("revision", "99"),
        ("type", "99"),
        ("category", "99"),
        ("schema_version", "99"),
        ("recorded_ms", "99"),
        ("caller_id", "7"),
        ("meta", "'{}'"),
        ("public", "'{}'"),
        ("salts", salts.as_str()),
        ("commitments", hash.as_str()),
        ("leaf", hash.as_str()),
    ] {
        statements.push(format!("update events set {column} = {value} where position = 0"));
    }
    let frozen = [
        ("streams", vec![("id", "99"), ("stream", id.as_str()), ("category", "99")]),
        ("names", vec![("id", "99"), ("text", "'other'")]),
        (
            "erasures",
            vec![
                ("number", "99"),
                ("request", "'other'"),
                ("subject", id.as_str()),
                ("scope", "'other'"),
                ("basis", "'other'"),
                ("fenced_ms", "99"),
                ("completed_ms", "null"),
                ("digest", hash.as_str()),
            ],
        ),
        ("fences", vec![("subject", id.as_str()), ("purpose", "'other'"), ("generation", "0")]),
        (
            "footprint",
            vec![("subject", id.as_str()), ("position", "99"), ("slot", "99"), ("purpose", "99"), ("generation", "99")],
        ),
        ("access_log", vec![("principal", "'other'"), ("fields", "0"), ("subject", id.as_str()), ("at_ms", "0")]),
    ];
    for (table, columns) in &frozen {
        statements.extend(columns.iter().map(|(column, value)| format!("update {table} set {column} = {value}")));
    }
    for table in ["events", "streams", "names", "erasures", "fences", "footprint"] {
        statements.push(format!("delete from {table}"));
    }
    let allowed: Vec<_> = statements.iter().filter(|sql| rig.execute(sql).is_ok()).collect();
    assert!(allowed.is_empty(), "{allowed:?}");
}

pub async fn salts_and_ciphertext_may_go(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[general(1)])])).await;
    let before = log.audit_rows(super::at(0), 1).await.unwrap().remove(0);
    assert!(before.salts.is_some() && before.event.sealed.is_some());
    assert_eq!(rig.execute("update events set salts = null, sealed = null"), Ok(1));
    let after = log.audit_rows(super::at(0), 1).await.unwrap().remove(0);
    assert!(after.salts.is_none() && after.event.sealed.is_none());
    assert_eq!((after.leaf, after.commitments), (before.leaf, before.commitments));
    // Once destroyed, they do not come back.
    assert!(rig.execute(&format!("update events set salts = {}", rig.bytes(&[1; 64]))).is_err());
}
