//! Appends: expectations, atomicity, replays, conditions, order.

use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::event::{EventId, ExpectedRevision, Revision};
use oubliette::eventlog::{Batch, Condition, Effect, Filter, Idempotency, Job, Refused};
use oubliette::merkle::{Frontier, root_of};

use super::{
    ANY, Maker, Rig, at, category, commit, commit_all, event_type_of, everything, exactly, job, jobs, of_stream,
    person, places, positions, read, refused, stream,
};

pub async fn a_new_log_is_empty(rig: &impl Rig) {
    let log = rig.open();
    let head = log.head().await.unwrap();
    assert_eq!((head.store, head.next.0, head.erasure_epoch), (super::STORE, 0, 0));
    assert_eq!(head.frontier, Frontier::default());
    let page = read(&*log, everything()).await;
    assert_eq!((page.events.len(), page.next, page.head, page.last_revision), (0, None, 0, None));
    assert!(log.streams(None, None, 10).await.unwrap().is_empty());
    assert_eq!(log.position_at(Millis(i64::MAX)).await.unwrap(), None);
    assert!(commit_all(&*log, vec![]).await.is_empty());
}

pub async fn positions_and_revisions_are_dense_from_zero(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let one = commit(&*log, job("a-1", ANY, vec![make.plain("t"), make.plain("t")])).await;
    let two = commit(&*log, jobs(vec![("a-2", ANY, vec![make.plain("t")]), ("a-1", ANY, vec![make.plain("t")])])).await;
    assert_eq!((places(&one), places(&two)), (vec![(0, 0)], vec![(0, 2), (2, 3)]));
    assert_eq!((one.streams[0].last_revision().0, one.streams[0].last_position().0), (1, 1));
    let page = read(&*log, everything()).await;
    assert_eq!(positions(&page), [0, 1, 2, 3]);
    let found: Vec<_> = page.events.iter().map(|event| (event.stream.as_str(), event.revision.0)).collect();
    assert_eq!(found, [("a-1", 0), ("a-1", 1), ("a-2", 0), ("a-1", 2)]);
    assert_eq!(page.events.iter().map(|event| event.id).collect::<Vec<_>>()[..2], one.streams[0].ids);
    assert_eq!(page.head, 4);
}

pub async fn every_expectation_against_every_stream(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("old-1", ANY, vec![make.plain("t"), make.plain("t")])).await;
    let mut next = 2;
    for (name, expected, current) in [
        ("old-1", ExpectedRevision::NoStream, Some(1)),
        ("old-1", exactly(0), Some(1)),
        ("old-1", exactly(2), Some(1)),
        ("new-1", ExpectedRevision::Exists, None),
        ("new-1", exactly(0), None),
    ] {
        let refusal = refused(&*log, job(name, expected, vec![make.plain("t")])).await;
        let current = current.map(Revision);
        assert_eq!(refusal, Refused::WrongExpectedRevision { stream: stream(name), expected, current });
        assert_eq!(log.head().await.unwrap().next.0, next);
    }
    for (name, expected, revision) in [
        ("old-1", exactly(1), 2),
        ("old-1", ExpectedRevision::Exists, 3),
        ("old-1", ANY, 4),
        ("new-1", ExpectedRevision::NoStream, 0),
        ("other-1", ANY, 0),
    ] {
        let done = commit(&*log, job(name, expected, vec![make.plain("t")])).await;
        assert_eq!(places(&done), [(revision, next)], "{name}");
        next += 1;
    }
}

pub async fn a_job_is_all_or_nothing(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    let effect = super::fence(person(1), &[], "fr_1");
    let both = jobs(vec![("b-1", ANY, vec![make.plain("t")]), ("a-1", exactly(7), vec![make.plain("t")])]);
    refused(&*log, Job { effects: vec![effect], ..both }).await;
    let head = log.head().await.unwrap();
    assert_eq!((head.next.0, head.erasure_epoch), (1, 0));
    assert_eq!(log.stream(stream("b-1")).await.unwrap(), None);
    assert!(log.fences(vec![person(1)]).await.unwrap().0.is_empty());
}

pub async fn jobs_of_a_batch_succeed_or_fail_alone(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let batch = (0..60)
        .map(|n| {
            let expected = if n % 3 == 0 { exactly(99) } else { ExpectedRevision::NoStream };
            job(&format!("a-{n}"), expected, vec![make.plain("t")])
        })
        .collect();
    let outcomes = commit_all(&*log, batch).await;
    let mut next = 0;
    for (n, outcome) in outcomes.iter().enumerate() {
        if n % 3 == 0 {
            assert!(matches!(outcome, Err(Refused::WrongExpectedRevision { current: None, .. })));
        } else {
            assert_eq!(places(outcome.as_ref().unwrap()), [(0, next)]);
            next += 1;
        }
    }
    assert_eq!(positions(&read(&*log, everything()).await), (0..40).collect::<Vec<_>>());
}

pub async fn a_batch_behaves_as_if_its_jobs_came_one_by_one(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let one = |expected| job("a-1", expected, vec![make.with_id(1, "t")]);
    let other = |expected| job("a-1", expected, vec![make.plain("t")]);
    let new = ExpectedRevision::NoStream;
    let outcomes = commit_all(&*log, vec![one(new), other(new), other(exactly(0)), one(new), other(exactly(1))]).await;
    assert_eq!(places(outcomes[0].as_ref().unwrap()), [(0, 0)]);
    assert!(matches!(outcomes[1], Err(Refused::WrongExpectedRevision { current: Some(Revision(0)), .. })));
    assert_eq!(places(outcomes[2].as_ref().unwrap()), [(1, 1)]);
    let replay = outcomes[3].as_ref().unwrap();
    assert!(replay.replayed);
    assert_eq!(places(replay), [(0, 0)]);
    assert_eq!(places(outcomes[4].as_ref().unwrap()), [(2, 2)]);
}

pub async fn a_large_batch_lands_whole(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let batch = (0..200)
        .map(|n| {
            let about = [(person(n as u8), Some(("general", 0))), (person(250), Some(("general", 0)))];
            job(&format!("a-{}", n % 17), ANY, vec![make.about("t", &about), make.plain("u")])
        })
        .collect();
    assert!(commit_all(&*log, batch).await.iter().all(Result::is_ok));
    let page = read(&*log, everything()).await;
    assert_eq!(positions(&page), (0..400).collect::<Vec<_>>());
    assert_eq!(log.footprint(person(250), None, 1000).await.unwrap().len(), 200);
    assert_eq!(log.footprint(person(3), None, 1000).await.unwrap().len(), 1);
}

pub async fn the_same_ids_again_are_a_replay(rig: &impl Rig) {
    let log = rig.open();
    let make = Maker::new();
    let request = || {
        jobs(vec![
            ("a-1", ExpectedRevision::NoStream, vec![make.with_id(1, "t"), make.with_id(2, "t")]),
            ("b-1", ExpectedRevision::NoStream, vec![make.with_id(3, "t")]),
        ])
    };
    let first = commit(&*log, request()).await;
    assert!(!first.replayed);
    commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    for reopened in [false, true] {
        let log = if reopened {
            log.close().await;
            rig.open()
        } else {
            Arc::clone(&log)
        };
        let again = commit(&*log, request()).await;
        assert!(again.replayed);
        assert_eq!(again.streams, first.streams);
        assert_eq!(log.head().await.unwrap().next.0, 4);
    }
}

pub async fn some_of_the_ids_again_are_a_conflict(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.with_id(1, "t")])).await;
    let mixed = vec![make.with_id(1, "t"), make.with_id(2, "t")];
    assert_eq!(refused(&*log, job("a-1", ANY, mixed)).await, Refused::EventIdConflict { stream: stream("a-1") });
    let mixed = vec![make.with_id(1, "t"), make.plain("t")];
    assert_eq!(refused(&*log, job("a-1", ANY, mixed)).await, Refused::EventIdConflict { stream: stream("a-1") });
    let streams = jobs(vec![("b-1", ANY, vec![make.with_id(9, "t")]), ("a-1", ANY, vec![make.with_id(1, "t")])]);
    assert!(matches!(refused(&*log, streams).await, Refused::EventIdConflict { .. }));
    assert_eq!(log.head().await.unwrap().next.0, 1);
}

pub async fn ids_in_another_order_are_a_conflict(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, (1..4).map(|id| make.with_id(id, "t")).collect())).await;
    for ids in [[2, 1, 3], [3, 2, 1], [1, 3, 2]] {
        let events = ids.iter().map(|id| make.with_id(*id, "t")).collect();
        assert_eq!(refused(&*log, job("a-1", ANY, events)).await, Refused::EventIdConflict { stream: stream("a-1") });
    }
    // A run out of the middle is a replay of that run.
    let part = commit(&*log, job("a-1", ANY, vec![make.with_id(2, "t"), make.with_id(3, "t")])).await;
    assert_eq!((part.replayed, places(&part)), (true, vec![(1, 1)]));
}

pub async fn ids_that_did_not_land_together_are_a_conflict(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.with_id(1, "t")])).await;
    commit(&*log, job("b-1", ANY, vec![make.plain("t")])).await;
    commit(&*log, job("a-1", ANY, vec![make.with_id(2, "t")])).await;
    // Consecutive revisions, but not consecutive positions: no answer could say where they are.
    let both = job("a-1", ANY, vec![make.with_id(1, "t"), make.with_id(2, "t")]);
    assert_eq!(refused(&*log, both).await, Refused::EventIdConflict { stream: stream("a-1") });
}

pub async fn ids_belong_to_their_stream(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.with_id(1, "t")])).await;
    let other = commit(&*log, job("a-2", ANY, vec![make.with_id(1, "t")])).await;
    assert_eq!((other.replayed, places(&other)), (false, vec![(0, 1)]));
}

pub async fn ids_of_ours_never_replay(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let first = commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    // A caller who picks an id that we made means another event.
    let event = make.event("t", Some(first.streams[0].ids[0]), &[]);
    let second = commit(&*log, job("a-1", ANY, vec![event])).await;
    assert_eq!((second.replayed, places(&second)), (false, vec![(1, 1)]));
}

fn keyed(job: Job, key: u8, request: u8, now: i64) -> Job {
    let idempotency = Some(Idempotency { key: [key; 32], request: [request; 32], expires: Millis(now + 1000) });
    Job { idempotency, at: Millis(now), ..job }
}

pub async fn an_idempotency_key_replays_its_answer(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let request = || {
        keyed(
            jobs(vec![("a-1", ANY, vec![make.plain("t"), make.plain("t")]), ("b-1", ANY, vec![make.plain("t")])]),
            1,
            1,
            5000,
        )
    };
    let outcomes = commit_all(&*log, vec![request(), request()]).await;
    let first = outcomes[0].clone().unwrap();
    let second = outcomes[1].clone().unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.streams, second.streams);
    log.close().await;
    let log = rig.open();
    let third = commit(&*log, request()).await;
    assert_eq!((third.replayed, third.streams), (true, first.streams));
    assert_eq!(log.head().await.unwrap().next.0, 3);
}

pub async fn an_idempotency_key_with_another_request_is_refused(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let request = |digest| keyed(job("a-1", ANY, vec![make.plain("t")]), 1, digest, 5000);
    let outcomes = commit_all(&*log, vec![request(1), request(2)]).await;
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(Refused::IdempotencyKeyReuse));
    assert_eq!(refused(&*log, request(3)).await, Refused::IdempotencyKeyReuse);
}

pub async fn an_idempotency_key_expires(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let request = |digest, now| keyed(job("a-1", ANY, vec![make.plain("t")]), 1, digest, now);
    commit(&*log, request(1, 5000)).await;
    assert!(commit(&*log, request(1, 5999)).await.replayed);
    assert!(!commit(&*log, request(2, 6000)).await.replayed, "expired, so a new request may use it");
    assert_eq!(refused(&*log, request(1, 6001)).await, Refused::IdempotencyKeyReuse);
}

pub async fn a_refused_request_is_not_remembered(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let request = |expected| keyed(job("a-1", expected, vec![make.plain("t")]), 1, 1, 5000);
    refused(&*log, request(exactly(4))).await;
    assert!(!commit(&*log, request(ANY)).await.replayed);
}

pub async fn a_condition_on_a_stream(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let with = |expected, name: &str| Job {
        conditions: vec![
            Condition::Stream { stream: stream("none-1"), expected: ExpectedRevision::NoStream },
            Condition::Stream { stream: stream(name), expected },
        ],
        ..job("a-1", ANY, vec![make.plain("t")])
    };
    let exists = ExpectedRevision::Exists;
    assert_eq!(refused(&*log, with(exists, "b-1")).await, Refused::Condition { index: 1 });
    commit(&*log, job("b-1", ANY, vec![make.plain("t")])).await;
    commit(&*log, with(exists, "b-1")).await;
    commit(&*log, with(exactly(0), "b-1")).await;
    assert_eq!(refused(&*log, with(exactly(1), "b-1")).await, Refused::Condition { index: 1 });
}

pub async fn a_condition_on_what_is_not_there(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.plain("t"), make.about("u", &[(person(1), None)])])).await;
    let with = |after: Option<u64>, filter: &Filter| Job {
        conditions: vec![Condition::NoneMatching { after: after.map(at), filter: filter.clone() }],
        ..job("z-1", ANY, vec![make.plain("z")])
    };
    let types =
        |names: &[&str]| Filter { types: names.iter().map(|n| event_type_of(n)).collect(), ..Filter::default() };
    for (filter, last) in [
        (types(&["t"]), 0),
        (types(&["t", "u"]), 1),
        (types(&["v", "u"]), 1),
        (Filter { subject: Some(person(1)), ..Filter::default() }, 1),
        (Filter { subject: Some(person(1)), ..types(&["u"]) }, 1),
        (Filter { category: Some(category("a")), ..Filter::default() }, 1),
        (Filter { category: Some(category("a")), ..types(&["t"]) }, 0),
    ] {
        assert_eq!(refused(&*log, with(None, &filter)).await, Refused::Condition { index: 0 }, "{filter:?}");
        if last > 0 {
            assert_eq!(refused(&*log, with(Some(last - 1), &filter)).await, Refused::Condition { index: 0 });
        }
        commit(&*log, with(Some(last), &filter)).await;
        commit(&*log, with(Some(u64::MAX), &filter)).await;
    }
    for filter in [
        types(&["v"]),
        Filter { subject: Some(person(2)), ..Filter::default() },
        Filter { subject: Some(person(1)), ..types(&["t"]) },
        Filter { category: Some(category("b")), ..Filter::default() },
    ] {
        commit(&*log, with(None, &filter)).await;
    }
    assert_eq!(refused(&*log, with(None, &Filter::default())).await, Refused::Condition { index: 0 });
}

pub async fn a_condition_sees_earlier_jobs_of_the_batch(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let unique = |name: &str| Job {
        conditions: vec![Condition::NoneMatching {
            after: None,
            filter: Filter { subject: Some(person(1)), types: vec![event_type_of("t")], category: None },
        }],
        ..job(name, ANY, vec![make.about("t", &[(person(1), None)])])
    };
    let stream_is_new = Job {
        conditions: vec![Condition::Stream { stream: stream("a-1"), expected: ExpectedRevision::NoStream }],
        ..job("c-1", ANY, vec![make.plain("t")])
    };
    let outcomes = commit_all(&*log, vec![unique("a-1"), unique("b-1"), stream_is_new]).await;
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(Refused::Condition { index: 0 }));
    assert_eq!(outcomes[2], Err(Refused::Condition { index: 0 }));
}

pub async fn recorded_times_never_go_back(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    for at in [500, 9000, 3000, 9001, -5] {
        commit(&*log, Job { at: Millis(at), ..job("a-1", ANY, vec![make.plain("t")]) }).await;
    }
    log.close().await;
    let log = rig.open();
    commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    let recorded: Vec<i64> = read(&*log, of_stream("a-1")).await.events.iter().map(|e| e.recorded.0).collect();
    assert_eq!(recorded, [500, 9000, 9000, 9001, 9001, 9001]);
    assert_eq!(log.head().await.unwrap().recorded, Millis(9001));
}

pub async fn many_writers_at_once(rig: &impl Rig) {
    let log = rig.open();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let make = Maker::new();
                for n in 0..10_u64 {
                    let name = format!("own-{task}");
                    let expected = if n == 0 { ExpectedRevision::NoStream } else { exactly(n - 1) };
                    commit(&*log, job(&name, expected, vec![make.plain("t")])).await;
                    commit(&*log, job("shared-1", ANY, vec![make.plain("t")])).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let page = read(&*log, everything()).await;
    assert_eq!(positions(&page), (0..320).collect::<Vec<_>>());
    let shared = read(&*log, of_stream("shared-1")).await;
    assert_eq!(shared.events.iter().map(|e| e.revision.0).collect::<Vec<_>>(), (0..160).collect::<Vec<_>>());
}

pub async fn the_head_is_the_tree_over_all_leaves(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let mut leaves = Vec::new();
    for n in 0..9 {
        let events = (0..=n % 4).map(|_| make.plain("t")).collect();
        let request = Effect::Request { id: "fr".into(), subject: person(1), status: "previewed", due: Millis(1) };
        let batch = Batch { jobs: vec![Job { effects: vec![request], ..job("a-1", ANY, events) }], access: vec![] };
        log.commit(batch).await.unwrap();
        let rows = log.audit_rows(at(leaves.len() as u64), 100).await.unwrap();
        leaves.extend(rows.iter().map(|row| row.leaf));
        let head = log.head().await.unwrap();
        assert_eq!((head.frontier.size(), head.next.0), (leaves.len() as u64, leaves.len() as u64));
        assert_eq!(head.frontier.root(), root_of(&leaves));
    }
    let ids: std::collections::HashSet<EventId> =
        read(&*log, everything()).await.events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), leaves.len());
}
