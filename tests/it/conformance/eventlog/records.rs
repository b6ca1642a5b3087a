//! What the log keeps beside events, and its life: footprint, erasures, requests, access log, watch, opening, closing.

use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::domain::erasure_digest;
use oubliette::event::{Position, SubjectRef};
use oubliette::eventlog::{AccessEntry, Batch, CommitError, Effect, EventLog, ReadError};

use super::{
    ANY, Maker, Rig, at, commit, commit_all, effects, everything, fence, job, jobs, person, purpose, read, stream,
};
use crate::faulty::{Fault, FaultyLog, Rate};

pub fn access(subject: SubjectRef, time: i64, principal: &str) -> AccessEntry {
    AccessEntry {
        at: Millis(time),
        principal: principal.into(),
        purpose: "general".into(),
        subject,
        route: "/v1/streams/{stream}/events".into(),
        fields: 3,
        reason: "support".into(),
        request: "req_1".into(),
    }
}

pub async fn the_footprint_comes_in_pages(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let about = |slots: &[(&'static str, u32)]| {
        let list: Vec<_> = slots.iter().map(|slot| (person(1), Some(*slot))).collect();
        make.about("t", &list)
    };
    commit(&*log, job("a-1", ANY, vec![about(&[("a", 0), ("b", 3)]), make.plain("t"), about(&[("c", 0)])])).await;
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[(person(1), None), (person(2), Some(("a", 0)))])])).await;
    let all = log.footprint(person(1), None, 100).await.unwrap();
    let found: Vec<_> = all.iter().map(|r| (r.position.0, r.slot, r.purpose.as_str(), r.generation)).collect();
    assert_eq!(found, [(0, Some(0), "a", 0), (0, Some(1), "b", 3), (2, Some(0), "c", 0), (3, None, "general", 0)]);
    for size in 1..5 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = log.footprint(person(1), after, size).await.unwrap();
            assert!(page.len() <= size);
            let Some(last) = page.last() else { break };
            after = Some((last.position, last.slot.map_or(-1, i32::from)));
            paged.extend(page);
        }
        assert_eq!(paged, all);
    }
    assert!(log.footprint(person(3), None, 100).await.unwrap().is_empty());
}

pub async fn the_erasure_record_is_dense_and_chained(rig: &impl Rig) {
    let log = rig.open();
    let scopes: [(u8, &[&str], &str); 4] =
        [(1, &[], "*"), (2, &["news"], "news"), (2, &["a", "b"], "a b"), (3, &[], "*")];
    let (together, alone) = scopes.split_at(2);
    let fence_of = |number: usize, (who, purposes, _): &(u8, &[&str], &str)| {
        effects(vec![fence(person(*who), purposes, &format!("fr_{number}"))])
    };
    commit_all(&*log, together.iter().enumerate().map(|(n, one)| fence_of(n + 1, one)).collect()).await;
    log.close().await;
    let log = rig.open();
    for (n, one) in alone.iter().enumerate() {
        commit(&*log, fence_of(n + 3, one)).await;
    }
    let rows = log.erasures(0, 100).await.unwrap();
    let mut digest = [0; 32];
    for (n, (row, (who, purposes, scope))) in rows.iter().zip(scopes).enumerate() {
        let number = n as u64 + 1;
        digest = erasure_digest(&digest, number, &person(who).0, scope);
        assert_eq!((row.number, row.digest, row.subject), (number, digest, person(who)));
        let words: Vec<_> = purposes.iter().map(|name| purpose(name)).collect();
        assert_eq!(row.purposes, (!words.is_empty()).then_some(words));
        assert_eq!((row.request.as_str(), row.basis.as_str()), (&*format!("fr_{number}"), "gdpr:A17-1-b"));
        assert_eq!((row.fenced, row.completed), (Millis(1000), None));
        assert_eq!(log.erasure_of(row.request.clone()).await.unwrap().as_ref(), Some(row));
        assert_eq!(log.erasures(n as u64, 1).await.unwrap(), std::slice::from_ref(row));
    }
    assert_eq!((rows.len(), log.head().await.unwrap().erasure_epoch), (4, 4));
    assert!(log.erasures(4, 100).await.unwrap().is_empty());
    assert_eq!(log.erasure_of("fr_9".into()).await.unwrap(), None);
}

pub async fn an_erasure_is_completed_once(rig: &impl Rig) {
    let log = rig.open();
    commit(&*log, effects(vec![fence(person(1), &[], "fr_1")])).await;
    commit(&*log, effects(vec![fence(person(2), &[], "fr_2")])).await;
    let done = |time| oubliette::eventlog::Job {
        at: Millis(time),
        ..effects(vec![Effect::Completed { request: "fr_1".into() }, Effect::Completed { request: "fr_9".into() }])
    };
    commit(&*log, done(5000)).await;
    commit(&*log, done(6000)).await;
    let completed: Vec<_> = log.erasures(0, 9).await.unwrap().iter().map(|row| row.completed).collect();
    assert_eq!(completed, [Some(Millis(5000)), None]);
}

pub async fn requests_are_listed_by_id_and_status(rig: &impl Rig) {
    let log = rig.open();
    let request =
        |id: &str, status, due| Effect::Request { id: id.into(), subject: person(1), status, due: Millis(due) };
    let first = vec![request("fr_1", "previewed", 10), request("fr_3", "previewed", 5), request("fr_2", "fenced", 7)];
    commit(&*log, effects(first)).await;
    commit(&*log, effects(vec![request("fr_3", "fenced", 5)])).await;
    let ids = async |status: Option<&str>, after: Option<&str>, limit| {
        let rows = log.requests(status.map(str::to_owned), after.map(str::to_owned), limit).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(None, None, 10).await, ["fr_1", "fr_2", "fr_3"]);
    assert_eq!(ids(None, Some("fr_1"), 1).await, ["fr_2"]);
    assert_eq!(ids(Some("fenced"), None, 10).await, ["fr_2", "fr_3"]);
    assert_eq!(ids(Some("fenced"), Some("fr_2"), 10).await, ["fr_3"]);
    assert!(ids(Some("completed"), None, 10).await.is_empty());
    let row = log.requests(None, Some("fr_2".into()), 1).await.unwrap().remove(0);
    assert_eq!((row.subject, row.status.as_str(), row.due), (person(1), "fenced", Millis(5)));
}

pub async fn the_access_log_is_read_backwards(rig: &impl Rig) {
    let log = rig.open();
    let entries = (0..300).map(|n| access(person((n % 3) as u8), n, &format!("ak_{n}"))).collect();
    log.commit(Batch { jobs: vec![], access: entries }).await.unwrap();
    let rows = log.access_log(None, None, 1000).await.unwrap();
    let times: Vec<i64> = rows.iter().map(|row| row.entry.at.0).collect();
    assert_eq!(times, (0..300).rev().collect::<Vec<_>>());
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = log.access_log(Some(person(1)), before, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        paged.extend(page.iter().map(|row| row.entry.at.0));
    }
    assert_eq!(paged, (0..300).rev().filter(|n| n % 3 == 1).collect::<Vec<_>>());
    let entry = &rows[0].entry;
    assert_eq!((entry.principal.as_str(), entry.purpose.as_str(), entry.fields), ("ak_299", "general", 3));
    assert_eq!((entry.reason.as_str(), entry.request.as_str()), ("support", "req_1"));
    assert_eq!(entry.route, "/v1/streams/{stream}/events");
}

pub async fn access_and_appends_land_together(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let refused = job("a-1", super::exactly(9), vec![make.plain("t")]);
    let batch = Batch { jobs: vec![refused], access: vec![access(person(1), 1, "ak_1")] };
    assert!(log.commit(batch).await.unwrap()[0].is_err());
    assert_eq!(log.access_log(None, None, 10).await.unwrap().len(), 1, "the read happens, whatever the job");
}

pub async fn the_watch_ticks_with_every_commit(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let mut watch = log.watch();
    assert_eq!(*watch.borrow_and_update(), 0);
    commit(&*log, job("a-1", ANY, vec![make.plain("t"), make.plain("t")])).await;
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), 2);
    commit(&*log, effects(vec![])).await;
    super::refused(&*log, job("a-1", super::exactly(9), vec![make.plain("t")])).await;
    assert!(!watch.has_changed().unwrap(), "nothing new to read");
    // What the watch says can be read.
    let follower = Arc::clone(&log);
    let task = tokio::spawn(async move {
        let mut watch = follower.watch();
        while *watch.borrow_and_update() < 12 {
            watch.changed().await.unwrap();
            let next = *watch.borrow();
            assert!(follower.head().await.unwrap().next.0 >= next);
        }
    });
    for _ in 0..10 {
        commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    }
    task.await.unwrap();
    log.close().await;
    assert_eq!(*rig.open().watch().borrow(), 12);
}

async fn state(log: &dyn EventLog) -> String {
    let head = log.head().await.unwrap();
    let rows = log.audit_rows(at(0), 100).await.unwrap();
    let page = read(log, everything()).await;
    let fences = log.fences(vec![person(1)]).await.unwrap();
    format!("{head:?} {rows:?} {page:?} {fences:?} {:?}", log.erasures(0, 10).await.unwrap())
}

async fn fill(log: &dyn EventLog) {
    let make = Maker::new();
    let general = (person(1), Some(("general", 0)));
    commit(log, jobs(vec![("a-1", ANY, vec![make.about("t", &[general])]), ("b-1", ANY, vec![make.plain("u")])])).await;
    commit(log, effects(vec![fence(person(1), &[], "fr_1")])).await;
}

pub async fn everything_survives_closing(rig: &impl Rig) {
    let log = rig.open();
    fill(&*log).await;
    let before = state(&*log).await;
    log.close().await;
    let log = rig.open();
    assert_eq!(state(&*log).await, before);
    let done = commit(&*log, job("a-1", super::exactly(0), vec![Maker::new().plain("t")])).await;
    assert_eq!(super::places(&done), [(1, 2)]);
}

pub async fn everything_survives_a_drop_without_closing(rig: &impl Rig) {
    for round in 0..5 {
        let log = rig.open();
        if round == 0 {
            fill(&*log).await;
        }
        let before = state(&*log).await;
        drop(log);
        let log = rig.open();
        assert_eq!(state(&*log).await, before);
        let done = commit(&*log, job("a-1", super::exactly(round), vec![Maker::new().plain("t")])).await;
        assert_eq!(super::places(&done), [(round + 1, round + 2)]);
    }
}

pub async fn a_closed_log_refuses_everything(rig: &impl Rig) {
    let log = rig.open();
    fill(&*log).await;
    log.close().await;
    log.close().await;
    let batch = Batch { jobs: vec![job("a-1", ANY, vec![Maker::new().plain("t")])], access: vec![] };
    assert!(matches!(log.commit(batch).await, Err(CommitError::Unavailable { .. })));
    let closed = |error: Option<ReadError>| assert!(matches!(error, Some(ReadError::Unavailable { .. })), "{error:?}");
    closed(log.read(everything()).await.err());
    closed(log.head().await.err());
    closed(log.audit_rows(at(0), 1).await.err());
    closed(log.stream(stream("a-1")).await.err());
    closed(log.streams(None, None, 1).await.err());
    closed(log.position_at(Millis(0)).await.err());
    closed(log.footprint(person(1), None, 1).await.err());
    closed(log.fences(vec![person(1)]).await.err());
    closed(log.erasures(0, 1).await.err());
    closed(log.erasure_of("fr_1".into()).await.err());
    closed(log.requests(None, None, 1).await.err());
    closed(log.access_log(None, None, 1).await.err());
    assert_eq!(rig.open().head().await.unwrap().next, Position(2));
}

pub async fn audit_rows_are_what_was_appended(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let event = make.about("t", &[(person(1), Some(("a", 0))), (person(2), Some(("b", 0)))]);
    let (meta, public) = (event.meta().to_owned(), event.public().to_owned());
    let (salts, sealed) = (event.salts().to_vec(), event.sealed().map(<[u8]>::to_vec));
    let commitments = event.commitments().as_flattened().to_vec();
    commit(&*log, job("a-1", ANY, vec![make.plain("t"), event, make.plain("t")])).await;
    let rows = log.audit_rows(at(1), 1).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((&*row.event.meta, &*row.event.public), (meta.as_str(), public.as_str()));
    assert_eq!(row.event.sealed.as_deref(), sealed.as_deref());
    assert_eq!((row.salts.as_ref(), &row.commitments), (Some(&salts), &commitments));
    assert_eq!((row.event.position.0, row.event.revision.0, row.event.schema_version), (1, 1, None));
    let rows = log.audit_rows(at(0), 100).await.unwrap();
    assert!(rows.iter().all(|other| other.stream_id == row.stream_id));
    commit(&*log, job("a-2", ANY, vec![make.plain("t")])).await;
    assert_ne!(log.audit_rows(at(3), 1).await.unwrap()[0].stream_id, row.stream_id);
}

pub async fn a_lost_answer_is_settled_by_the_ids(rig: &impl Rig) {
    let log = FaultyLog::new(rig.open(), 1);
    let make = Maker::new();
    let batch = || Batch { jobs: vec![job("a-1", ANY, vec![make.with_id(1, "t")])], access: vec![] };
    log.fail_commits(Fault::Before, Rate::Next(1));
    assert!(matches!(log.commit(batch()).await, Err(CommitError::Unavailable { .. })));
    assert_eq!(log.head().await.unwrap().next.0, 0);
    log.fail_commits(Fault::After, Rate::Next(1));
    assert!(matches!(log.commit(batch()).await, Err(CommitError::Indeterminate)));
    assert_eq!(log.head().await.unwrap().next.0, 1);
    let again = log.commit(batch()).await.unwrap().remove(0).unwrap();
    assert_eq!((again.replayed, log.failed()), (true, 2));
    log.fail_reads(Rate::Next(1));
    assert!(log.head().await.is_err());
    log.heal();
    assert!(log.head().await.is_ok());
}
