//! The event log on PostgreSQL when connections break, servers crash and nodes race.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oubliette::db::postgres::Target;
use oubliette::event::{ExpectedRevision, SubjectRef};
use oubliette::eventlog::postgres::{PostgresEventLog, SCHEMA};
use oubliette::eventlog::{Batch, CommitError, EventLog};
use oubliette::merkle::{Frontier, root_of};
use oubliette::secret::Entropy;

use crate::conformance::eventlog::records::access;
use crate::conformance::eventlog::{
    ANY, Maker, Rig, at, commit, commit_all, effects, everything, exactly, fence, job, person, places, positions, read,
};
use crate::eventlog_postgres::PostgresRig;
use crate::postgres::{Cluster, cluster, execute};
use crate::proxy::{Cut, Proxy};

fn quick(target: &mut Target) {
    target.timeouts.answer = Duration::from_millis(400);
    target.timeouts.idle_in_transaction = Duration::from_millis(800);
    target.timeouts.lock = Duration::from_millis(500);
}

async fn open(dsn: &str) -> PostgresEventLog {
    let mut target = Target::parse(dsn, SCHEMA).unwrap();
    quick(&mut target);
    PostgresEventLog::open(target, 2, Arc::new(Entropy::system())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_the_commit_is_settled_by_the_event_ids() {
    let (Some(rig), Some(cluster)) = (PostgresRig::place(), cluster()) else { return };
    rig.create().await.unwrap().close().await;
    let proxy = Proxy::new(cluster.dir());
    let log = open(&proxy.through(rig.dsn())).await;
    let make = Maker::new();
    let batch = |expected| Batch { jobs: vec![job("a-1", expected, vec![make.plain("t")])], access: vec![] };
    commit(&log, job("a-1", ExpectedRevision::NoStream, vec![make.plain("t")])).await;
    let mut next = 1;
    for round in 0..3 {
        // The server never heard of the commit: nothing is there, and the log says so.
        for cut in [Cut::Before, Cut::Silence] {
            proxy.arm(cut);
            let answer = log.commit(batch(exactly(next - 1))).await;
            assert!(matches!(answer, Err(CommitError::Unavailable { .. })), "round {round} {cut:?}: {answer:?}");
            assert!(proxy.is_spent());
            assert_eq!(log.head().await.unwrap().next.0, next);
        }
        // The server did it and the answer was lost: the answer is found again.
        proxy.arm(Cut::After);
        let done = log.commit(batch(exactly(next - 1))).await.unwrap().remove(0).unwrap();
        assert!(proxy.is_spent() && !done.replayed);
        assert_eq!(places(&done), [(next, next)]);
        next += 1;
        // And what is remembered of the stream is right.
        let done = commit(&log, job("a-1", exactly(next - 1), vec![make.plain("t")])).await;
        assert_eq!(places(&done), [(next, next)]);
        next += 1;
    }
    assert_eq!(positions(&read(&log, everything()).await), (0..next).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_personal_read_lost_at_the_commit_is_settled_too() {
    let (Some(rig), Some(cluster)) = (PostgresRig::place(), cluster()) else { return };
    rig.create().await.unwrap().close().await;
    let proxy = Proxy::new(cluster.dir());
    let log = open(&proxy.through(rig.dsn())).await;
    let batch = |time| Batch { jobs: vec![], access: vec![access(person(1), time, "ak_1")] };
    log.commit(batch(1)).await.unwrap();
    proxy.arm(Cut::Before);
    assert!(matches!(log.commit(batch(2)).await, Err(CommitError::Unavailable { .. })));
    proxy.arm(Cut::After);
    log.commit(batch(3)).await.unwrap();
    let times: Vec<i64> = log.access_log(None, None, 9).await.unwrap().iter().map(|row| row.entry.at.0).collect();
    assert_eq!(times, [3, 1]);
    // Effects alone leave nothing to look for: then it is not known, and said.
    proxy.arm(Cut::After);
    let fenced = Batch { jobs: vec![effects(vec![fence(person(1), &[], "fr_1")])], access: vec![] };
    assert!(matches!(log.commit(fenced).await, Err(CommitError::Indeterminate)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_take_turns_and_hear_of_each_other() {
    let Some(rig) = PostgresRig::place() else { return };
    let one = rig.open();
    let nodes: Vec<Arc<dyn EventLog>> = vec![Arc::clone(&one), rig.open(), rig.open()];
    let make = Arc::new(Maker::new());
    let tasks: Vec<_> = (0..12)
        .map(|task: usize| {
            let (log, make) = (Arc::clone(&nodes[task % 3]), Arc::clone(&make));
            tokio::spawn(async move {
                let mut landed = Vec::new();
                for n in 0..25 {
                    // Half of them to streams that all nodes write.
                    let name = if n % 2 == 0 { format!("shared-{}", n % 6) } else { format!("own-{task}") };
                    let jobs = vec![
                        job(&name, ANY, vec![make.plain("t"), make.about("u", &[(person(task as u8), None)])]),
                        job(&format!("x-{task}-{n}"), ExpectedRevision::NoStream, vec![make.plain("t")]),
                    ];
                    for done in commit_all(&*log, jobs).await {
                        landed.extend(done.unwrap().streams);
                    }
                }
                landed
            })
        })
        .collect();
    let mut landed = Vec::new();
    for task in tasks {
        landed.extend(task.await.unwrap());
    }
    let total = 12 * 25 * 3;
    let page = read(&*one, oubliette::eventlog::ReadQuery { limit: 2000, ..everything() }).await;
    assert_eq!(positions(&page), (0..total).collect::<Vec<_>>());
    // Every answer names the place where its events are, revisions of every stream are dense, the tree is over all.
    let mut next: HashMap<&str, u64> = HashMap::new();
    for event in &page.events {
        let revision = next.entry(event.stream.as_str()).or_default();
        assert_eq!(event.revision.0, *revision);
        *revision += 1;
    }
    for stream in &landed {
        for (offset, id) in stream.ids.iter().enumerate() {
            let event = &page.events[stream.first_position.0 as usize + offset];
            assert_eq!((event.id, event.revision.0), (*id, stream.first_revision.0 + offset as u64));
        }
    }
    let leaves: Vec<[u8; 32]> = one.audit_rows(at(0), 2000).await.unwrap().iter().map(|row| row.leaf).collect();
    let mut frontier = Frontier::default();
    for leaf in &leaves {
        frontier.push(*leaf);
    }
    for log in &nodes {
        assert_eq!(log.head().await.unwrap().frontier, frontier);
        let mut watch = log.watch();
        tokio::time::timeout(Duration::from_secs(5), watch.wait_for(|next| *next == total)).await.unwrap().unwrap();
    }
    assert_eq!(frontier.root(), root_of(&leaves));
}

/// A node that stalls with the head in its hands is sent away by the server, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_node_does_not_hold_up_the_others_for_long() {
    let (Some(rig), Some(cluster)) = (PostgresRig::place(), cluster()) else { return };
    rig.create().await.unwrap().close().await;
    let proxy = Proxy::new(cluster.dir());
    let (stalled, other) = (Arc::new(open(&proxy.through(rig.dsn())).await), open(rig.dsn()).await);
    let make = Maker::new();
    proxy.arm(Cut::Silence);
    let batch = Batch { jobs: vec![job("a-1", ANY, vec![make.plain("t")])], access: vec![] };
    let waits = tokio::spawn(async move { stalled.commit(batch).await });
    while !proxy.is_spent() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    // The first attempt may run into the limit of waiting for a lock; repeating it is up to the caller.
    let mut done = Err(CommitError::Indeterminate);
    while done.is_err() && began.elapsed() < Duration::from_secs(10) {
        done = other.commit(Batch { jobs: vec![job("b-1", ANY, vec![make.plain("t")])], access: vec![] }).await;
    }
    assert_eq!(places(&done.unwrap().remove(0).unwrap()), [(0, 0)]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(matches!(waits.await.unwrap(), Err(CommitError::Unavailable { .. })), "its events are not there");
    assert_eq!(other.head().await.unwrap().next.0, 1);
}

/// Whatever the server's processes were doing when they were killed: what was acknowledged is there, once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let Some(cluster) = Cluster::start(true) else { return };
    let cluster = Arc::new(cluster);
    let dsn = cluster.database();
    PostgresEventLog::create(
        Target::parse(&dsn, SCHEMA).unwrap(),
        crate::conformance::eventlog::STORE,
        oubliette::clock::Millis(0),
        2,
        Arc::new(Entropy::system()),
    )
    .await
    .unwrap()
    .close()
    .await;
    let nodes = [Arc::new(open(&dsn).await), Arc::new(open(&dsn).await)];
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..6)
        .map(|task: usize| {
            let (log, stop) = (Arc::clone(&nodes[task % 2]), Arc::clone(&stop));
            tokio::spawn(async move {
                let (make, mut acked, mut open) = (Maker::new(), Vec::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let event = make.about("t", &[(person(task as u8), Some(("general", 0)))]);
                    let id = event.id();
                    let batch = Batch { jobs: vec![job(&format!("s-{task}"), ANY, vec![event])], access: vec![] };
                    match log.commit(batch).await {
                        Ok(mut done) => acked.push((id, done.remove(0).unwrap().streams[0].first_position)),
                        Err(CommitError::Indeterminate) => open.push(id),
                        Err(CommitError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
                (acked, open)
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let cluster = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || cluster.crash()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut acked, mut unknown) = (HashMap::new(), Vec::new());
    for task in tasks {
        let (some, open) = task.await.unwrap();
        acked.extend(some);
        unknown.extend(open);
    }
    assert!(acked.len() > 20, "{} acknowledged", acked.len());
    let mut stored = Vec::new();
    let log = open(&dsn).await;
    loop {
        let rows = log.audit_rows(at(stored.len() as u64), 1000).await.unwrap();
        if rows.is_empty() {
            break;
        }
        stored.extend(rows);
    }
    let mut frontier = Frontier::default();
    for (position, row) in stored.iter().enumerate() {
        assert_eq!(row.event.position.0, position as u64);
        frontier.push(row.leaf);
        // What is stored was acknowledged, or was open when the connection went: nothing came of an error.
        assert!(acked.remove(&row.event.id) == Some(row.event.position) || unknown.contains(&row.event.id));
    }
    assert!(acked.is_empty(), "{} acknowledged events are lost", acked.len());
    let head = log.head().await.unwrap();
    assert_eq!((head.next.0, head.frontier), (stored.len() as u64, frontier));
}

/// A lock that somebody else holds is waited for, but not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_in_other_hands_is_an_outage_and_not_a_hang() {
    let Some(rig) = PostgresRig::place() else { return };
    rig.create().await.unwrap().close().await;
    let log = open(rig.dsn()).await;
    let make = Maker::new();
    let hold = format!("begin; select 1 from {SCHEMA}.head for update; select pg_sleep(4); commit");
    let dsn = rig.dsn().to_owned();
    let holder = tokio::task::spawn_blocking(move || execute(&dsn, &hold));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    let batch = Batch { jobs: vec![job("a-1", ANY, vec![make.plain("t")])], access: vec![] };
    assert!(matches!(log.commit(batch).await, Err(CommitError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // Reads need no lock.
    assert_eq!(log.head().await.unwrap().next.0, 0);
    holder.await.unwrap().unwrap();
    commit(&log, job("a-1", ANY, vec![make.plain("t")])).await;
}

fn subject(number: u64) -> SubjectRef {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    SubjectRef(bytes)
}

/// Appends race with forgets on two nodes: once a forget has returned, nothing about that person is added.
async fn appends_race_with_forgets(forgets: u64) {
    let Some(rig) = PostgresRig::place() else { return };
    let nodes = [rig.open(), rig.open()];
    let stop = Arc::new(AtomicBool::new(false));
    // Who is being forgotten now: writers write about people near this number, before and after.
    let now = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..8)
        .map(|task: usize| {
            let (log, stop, now) = (Arc::clone(&nodes[task % 2]), Arc::clone(&stop), Arc::clone(&now));
            tokio::spawn(async move {
                let (make, mut refused) = (Maker::new(), 0);
                let mut turn = task as u64;
                while !stop.load(Ordering::Relaxed) {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let jobs = (0..4)
                        .map(|n| {
                            let who = subject((now.load(Ordering::Relaxed) + (turn >> (33 + n)) % 6).saturating_sub(3));
                            job(&format!("s-{task}-{n}"), ANY, vec![make.about("t", &[(who, Some(("general", 0)))])])
                        })
                        .collect();
                    refused += commit_all(&*log, jobs).await.iter().filter(|one| one.is_err()).count();
                }
                refused
            })
        })
        .collect();
    let mut at_return = Vec::new();
    for number in 0..forgets {
        now.store(number, Ordering::Relaxed);
        let log = &nodes[(number % 2) as usize];
        commit(&**log, effects(vec![fence(subject(number), &[], &format!("fr_{number}"))])).await;
        at_return.push(log.footprint(subject(number), None, 10_000).await.unwrap().len());
    }
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    for writer in writers {
        refused += writer.await.unwrap();
    }
    let (mut late, mut seen) = (0, 0);
    for (number, before) in at_return.iter().enumerate() {
        let after = nodes[0].footprint(subject(number as u64), None, 10_000).await.unwrap().len();
        late += usize::from(after != *before);
        seen += after;
    }
    assert_eq!(late, 0, "people with an event committed after their forget, of {forgets}");
    assert!(refused > 0 && seen > 0, "the race was run: {refused} refused, {seen} landed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_lands_after_a_forget() {
    appends_race_with_forgets(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long tier: a minute; 200 forgets are in the short one"]
async fn no_event_lands_after_two_thousand_forgets() {
    appends_race_with_forgets(2000).await;
}
