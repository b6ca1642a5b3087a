//! Reads: directions, filters, limits, places in time, lists of streams.

use oubliette::clock::Millis;
use oubliette::eventlog::{Direction, EventLog, Filter, Job, ReadQuery};

use super::{
    ANY, Maker, Rig, at, category, commit, event_type_of, everything, job, of_stream, person, positions, read, stream,
};

fn backward(query: ReadQuery) -> ReadQuery {
    ReadQuery { direction: Direction::Backward, ..query }
}

fn from(from: u64, query: ReadQuery) -> ReadQuery {
    ReadQuery { from: Some(from), ..query }
}

fn limit(limit: usize, query: ReadQuery) -> ReadQuery {
    ReadQuery { limit, ..query }
}

fn filter(category_name: &str, types: &[&str], subject: u8) -> Filter {
    Filter {
        category: (!category_name.is_empty()).then(|| category(category_name)),
        types: types.iter().map(|name| event_type_of(name)).collect(),
        subject: (subject > 0).then(|| person(subject)),
    }
}

/// Positions: 0 a-1 t p1 · 1 b-1 u p1,p2 · 2 $sys t · 3 a-2 u · 4 a-1 v p2 (named) · 5 b-1 t p1 twice
async fn small(log: &dyn EventLog) {
    let make = Maker::new();
    let general = |number| (person(number), Some(("general", 0)));
    let news = (person(1), Some(("news", 0)));
    for (name, event) in [
        ("a-1", make.about("t", &[general(1)])),
        ("b-1", make.about("u", &[general(1), general(2)])),
        ("$sys-1", make.plain("t")),
        ("a-2", make.plain("u")),
        ("a-1", make.about("v", &[(person(2), None)])),
        ("b-1", make.about("t", &[general(1), news])),
    ] {
        commit(log, job(name, ANY, vec![event])).await;
    }
}

pub async fn a_stream_in_both_directions(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("x-1", ANY, vec![make.plain("t")])).await;
    commit(&*log, job("a-1", ANY, (0..5).map(|_| make.plain("t")).collect())).await;
    for (query, revisions, next) in [
        (of_stream("a-1"), vec![0, 1, 2, 3, 4], None),
        (limit(2, of_stream("a-1")), vec![0, 1], Some(2)),
        (limit(2, from(3, of_stream("a-1"))), vec![3, 4], None),
        (from(5, of_stream("a-1")), vec![], None),
        (backward(of_stream("a-1")), vec![4, 3, 2, 1, 0], None),
        (limit(2, backward(of_stream("a-1"))), vec![4, 3], Some(2)),
        (limit(2, backward(from(1, of_stream("a-1")))), vec![1, 0], None),
        (limit(1, backward(from(0, of_stream("a-1")))), vec![0], None),
        (limit(1, backward(from(99, of_stream("a-1")))), vec![4], Some(3)),
    ] {
        let page = read(&*log, query.clone()).await;
        let found: Vec<u64> = page.events.iter().map(|event| event.revision.0).collect();
        assert_eq!((found, page.next), (revisions, next), "{query:?}");
        assert_eq!(page.last_revision.map(|revision| revision.0), Some(4));
    }
}

pub async fn a_stream_that_is_not_there(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.plain("t")])).await;
    let page = read(&*log, of_stream("a-2")).await;
    assert_eq!((page.events.len(), page.next, page.last_revision, page.head), (0, None, None, 1));
    assert_eq!(log.stream(stream("a-2")).await.unwrap(), None);
    let info = log.stream(stream("a-1")).await.unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.last_revision.0, info.last_recorded), ("a-1", 0, Millis(1000)));
}

pub async fn all_events_with_and_without_the_systems_own(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    let ours = ReadQuery { system: false, ..everything() };
    assert_eq!(positions(&read(&*log, everything()).await), [0, 1, 2, 3, 4, 5]);
    assert_eq!(positions(&read(&*log, ours.clone()).await), [0, 1, 3, 4, 5]);
    assert_eq!(positions(&read(&*log, backward(ours.clone())).await), [5, 4, 3, 1, 0]);
    let page = read(&*log, limit(2, ours)).await;
    assert_eq!((positions(&page), page.next), (vec![0, 1], Some(3)), "the next page begins at the next match");
    assert_eq!(positions(&read(&*log, of_stream("$sys-1")).await), [2]);
}

pub async fn filters_alone_and_together(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    for (filter, expected) in [
        (filter("a", &[], 0), vec![0, 3, 4]),
        (filter("$sys", &[], 0), vec![2]),
        (filter("none", &[], 0), vec![]),
        (filter("", &["t"], 0), vec![0, 2, 5]),
        (filter("", &["u", "t"], 0), vec![0, 1, 2, 3, 5]),
        (filter("", &["none", "v"], 0), vec![4]),
        (filter("", &["none"], 0), vec![]),
        (filter("", &[], 1), vec![0, 1, 5]),
        (filter("", &[], 2), vec![1, 4]),
        (filter("", &[], 9), vec![]),
        (filter("a", &["t", "v"], 0), vec![0, 4]),
        (filter("b", &[], 1), vec![1, 5]),
        (filter("", &["t"], 1), vec![0, 5]),
        (filter("", &["t", "u"], 1), vec![0, 1, 5]),
        (filter("b", &["t"], 1), vec![5]),
        (filter("a", &["u"], 1), vec![]),
    ] {
        let query = ReadQuery { filter, ..everything() };
        assert_eq!(positions(&read(&*log, query.clone()).await), expected, "{query:?}");
        let reversed: Vec<u64> = expected.iter().rev().copied().collect();
        assert_eq!(positions(&read(&*log, backward(query.clone())).await), reversed, "{query:?}");
        let page = read(&*log, limit(1, query)).await;
        assert_eq!(
            (positions(&page), page.next),
            (expected.iter().take(1).copied().collect(), expected.get(1).copied())
        );
    }
}

pub async fn a_filter_by_person_in_a_stream(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    for (name, filter, expected) in [
        ("b-1", filter("", &[], 1), vec![1, 5]),
        ("b-1", filter("", &[], 2), vec![1]),
        ("a-1", filter("", &[], 1), vec![0]),
        ("a-1", filter("", &["v"], 0), vec![4]),
        ("a-1", filter("b", &[], 0), vec![]),
        ("b-1", filter("b", &["t"], 1), vec![5]),
    ] {
        let query = ReadQuery { filter, ..of_stream(name) };
        assert_eq!(positions(&read(&*log, query).await), expected);
    }
}

pub async fn a_type_named_twice_comes_once(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    let query = ReadQuery { filter: filter("", &["t", "u", "t"], 0), ..everything() };
    assert_eq!(positions(&read(&*log, query.clone()).await), [0, 1, 2, 3, 5]);
    assert_eq!(positions(&read(&*log, backward(query)).await), [5, 3, 2, 1, 0]);
}

pub async fn limits_of_count_and_bytes(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    for query in [everything(), ReadQuery { filter: filter("", &["t", "u", "v"], 0), ..everything() }] {
        // However tight the limits, a page moves on.
        for (limit, max_bytes) in [(1, usize::MAX), (0, usize::MAX), (1000, 0), (1000, 1)] {
            let page = read(&*log, ReadQuery { limit, max_bytes, ..query.clone() }).await;
            assert_eq!((positions(&page), page.next), (vec![0], Some(1)));
        }
        let page = read(&*log, ReadQuery { limit: usize::MAX, ..query.clone() }).await;
        assert_eq!((page.events.len(), page.next), (6, None));
    }
    let mut last = 0;
    for max_bytes in (0..6000).step_by(50) {
        let count = read(&*log, ReadQuery { max_bytes, ..everything() }).await.events.len();
        assert!(count >= last, "more bytes never give fewer events");
        last = count;
    }
    assert_eq!(last, 6);
}

pub async fn until_a_position(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    for (until, query, expected) in [
        (3, everything(), vec![0, 1, 2, 3]),
        (3, backward(everything()), vec![3, 2, 1, 0]),
        (3, of_stream("a-1"), vec![0]),
        (4, backward(of_stream("b-1")), vec![1]),
        (0, everything(), vec![0]),
        (u64::MAX, everything(), vec![0, 1, 2, 3, 4, 5]),
        (4, ReadQuery { filter: filter("", &["t"], 0), ..everything() }, vec![0, 2]),
        (4, ReadQuery { filter: filter("", &[], 1), ..everything() }, vec![0, 1]),
    ] {
        let page = read(&*log, ReadQuery { until: Some(at(until)), ..query }).await;
        assert_eq!((positions(&page), page.next), (expected, None));
        assert_eq!(page.head, 6, "the head is where the log ends, not where the page does");
    }
}

pub async fn numbers_beyond_every_row(rig: &impl Rig) {
    let log = rig.open();
    small(&*log).await;
    assert!(read(&*log, from(u64::MAX, everything())).await.events.is_empty());
    assert_eq!(read(&*log, backward(from(u64::MAX, everything()))).await.events.len(), 6);
    assert!(log.audit_rows(at(u64::MAX), 10).await.unwrap().is_empty());
    assert_eq!(log.audit_rows(at(0), usize::MAX).await.unwrap().len(), 6);
    assert!(log.erasures(u64::MAX, 10).await.unwrap().is_empty());
    assert!(log.footprint(person(1), Some((at(u64::MAX), 0)), 10).await.unwrap().is_empty());
    let entry = super::records::access(person(1), 5, "ak_1");
    log.commit(oubliette::eventlog::Batch { jobs: vec![], access: vec![entry] }).await.unwrap();
    assert_eq!(log.access_log(None, Some(u64::MAX), 10).await.unwrap().len(), 1);
}

pub async fn a_position_at_a_time(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    for time in [100, 100, 200, 400, 400, 900] {
        commit(&*log, Job { at: Millis(time), ..job("a-1", ANY, vec![make.plain("t")]) }).await;
    }
    for (time, expected) in [
        (i64::MIN, None),
        (99, None),
        (100, Some(1)),
        (199, Some(1)),
        (200, Some(2)),
        (399, Some(2)),
        (400, Some(4)),
        (899, Some(4)),
        (900, Some(5)),
        (i64::MAX, Some(5)),
    ] {
        assert_eq!(log.position_at(Millis(time)).await.unwrap(), expected.map(at), "{time}");
    }
}

pub async fn streams_are_listed_by_name(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    for name in ["b-2", "a-1", "$sys-1", "B-1", "a-10", "a", "a-2", "b-2"] {
        commit(&*log, job(name, ANY, vec![make.plain("t")])).await;
    }
    let names = async |after: Option<&str>, of: Option<&str>, limit| {
        let found = log.streams(after.map(str::to_owned), of.map(category), limit).await.unwrap();
        found.into_iter().map(|info| (info.name.to_string(), info.last_revision.0)).collect::<Vec<_>>()
    };
    let all = ["B-1", "a", "a-1", "a-10", "a-2", "b-2"].map(|name| (name.to_owned(), u64::from(name == "b-2")));
    assert_eq!(names(None, None, 100).await, all);
    assert_eq!(names(None, None, 2).await, all[..2]);
    assert_eq!(names(Some("a-1"), None, 2).await, all[3..5]);
    assert_eq!(names(Some("b-2"), None, 2).await, []);
    assert_eq!(names(None, Some("a"), 100).await, all[1..5]);
    assert_eq!(names(Some("a"), Some("a"), 2).await, all[2..4]);
    assert_eq!(names(None, Some("none"), 100).await, []);
}
