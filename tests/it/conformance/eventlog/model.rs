//! Random histories against a model in memory: a list of events, filtered and cut as the contract says.

use std::collections::{BTreeSet, HashMap};

use oubliette::event::{ExpectedRevision, Revision};
use oubliette::eventlog::{Direction, EventLog, Filter, ReadQuery, Refused};

use super::{
    ANY, Maker, Rig, at, category, commit_all, event_type_of, everything, exactly, jobs, person, read, stream,
};

const STREAMS: [&str; 7] = ["a-1", "a-2", "b-1", "b-2", "c", "$x-1", "$y-1"];
const TYPES: [&str; 4] = ["t", "u", "v", "w"];
const PURPOSES: [&str; 3] = ["general", "news", "support"];

/// The same seed gives the same history.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct Modelled {
    stream: &'static str,
    revision: u64,
    event_type: &'static str,
    people: BTreeSet<u8>,
}

#[derive(Default)]
struct Model {
    events: Vec<Modelled>,
    heads: HashMap<&'static str, u64>,
}

pub async fn random_histories_read_like_the_model(rig: &impl Rig) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut log = rig.open();
    let mut model = Model::default();
    for round in 0..40 {
        grow(&*log, &mut model, &mut random).await;
        if round % 13 == 12 {
            log.close().await;
            log = rig.open();
        }
        for _ in 0..12 {
            let query = query(&model, &mut random);
            walk(&*log, &model, query, &mut random).await;
        }
    }
    assert!(model.events.len() > 200, "{} events are no history", model.events.len());
}

/// One batch of jobs with expectations that hold or do not.
async fn grow(log: &dyn EventLog, model: &mut Model, random: &mut Random) {
    let make = Maker::new();
    let (mut batch, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..=random.below(8) {
        let mut names: Vec<&str> = STREAMS.to_vec();
        let mut appends = Vec::new();
        let mut accepted = true;
        let mut added = Vec::new();
        for _ in 0..=random.below(2) {
            let name = names.remove(random.below(names.len() as u64) as usize);
            let current = model.heads.get(name).copied();
            let wish = match random.below(6) {
                0 => ExpectedRevision::NoStream,
                1 => ExpectedRevision::Exists,
                2 => exactly(current.unwrap_or(0)),
                3 => exactly(random.below(4)),
                _ => ANY,
            };
            accepted &= wish.is_met_by(current.map(Revision));
            let first = current.map_or(0, |last| last + 1);
            let mut events = Vec::new();
            for offset in 0..=random.below(3) {
                let event_type = random.pick(&TYPES);
                let people: BTreeSet<u8> = (0..random.below(3)).map(|_| 1 + random.below(4) as u8).collect();
                let about: Vec<_> = people
                    .iter()
                    .map(|who| (person(*who), (!random.one_in(3)).then(|| (random.pick(&PURPOSES), 0))))
                    .collect();
                events.push(make.about(event_type, &about));
                added.push(Modelled { stream: name, revision: first + offset, event_type, people });
            }
            appends.push((name, wish, events));
        }
        batch.push(jobs(appends));
        expected.push(accepted);
        if accepted {
            for event in added {
                model.heads.insert(event.stream, event.revision);
                model.events.push(event);
            }
        }
    }
    for (outcome, accepted) in commit_all(log, batch).await.iter().zip(expected) {
        match outcome {
            Ok(_) => assert!(accepted),
            Err(refusal) => assert!(!accepted && matches!(refusal, Refused::WrongExpectedRevision { .. })),
        }
    }
}

fn query(model: &Model, random: &mut Random) -> ReadQuery {
    let types = (0..random.below(4)).map(|_| event_type_of(random.pick(&TYPES))).collect();
    let any = model.events.len() as u64 + 2;
    ReadQuery {
        stream: random.one_in(3).then(|| stream(random.pick(&STREAMS))),
        from: random.one_in(2).then(|| random.below(any)),
        direction: random.pick(&[Direction::Forward, Direction::Backward]),
        until: random.one_in(3).then(|| at(random.below(any))),
        filter: Filter {
            category: random.one_in(3).then(|| category(random.pick(&["a", "b", "c", "$x", "none"]))),
            types,
            subject: random.one_in(3).then(|| person(1 + random.below(5) as u8)),
        },
        system: random.one_in(2),
        ..everything()
    }
}

impl Model {
    /// Positions that a query means, in its order.
    fn matching(&self, query: &ReadQuery) -> Vec<u64> {
        let filter = &query.filter;
        let mut found: Vec<u64> = (0..self.events.len() as u64)
            .filter(|position| {
                let event = &self.events[*position as usize];
                let name = stream(event.stream);
                let key = if query.stream.is_some() { event.revision } else { *position };
                let in_range = match (query.from, query.direction) {
                    (None, _) => true,
                    (Some(from), Direction::Forward) => key >= from,
                    (Some(from), Direction::Backward) => key <= from,
                };
                in_range
                    && query.until.is_none_or(|until| *position <= until.0)
                    && query.stream.as_ref().map_or(query.system || !name.is_system(), |wanted| *wanted == name)
                    && filter.category.as_ref().is_none_or(|wanted| *wanted == name.category())
                    && (filter.types.is_empty() || filter.types.contains(&event_type_of(event.event_type)))
                    && filter.subject.is_none_or(|wanted| event.people.iter().any(|who| person(*who) == wanted))
            })
            .collect();
        if query.direction == Direction::Backward {
            found.reverse();
        }
        found
    }
}

/// Walks a query in pages of random sizes: together they are what the model says, and `next` is where the rest begins.
async fn walk(log: &dyn EventLog, model: &Model, mut query: ReadQuery, random: &mut Random) {
    let expected = model.matching(&query);
    let key = |position: u64| if query.stream.is_some() { model.events[position as usize].revision } else { position };
    let last = query.stream.as_ref().and_then(|name| model.heads.get(name.as_str()));
    let mut rest = expected.as_slice();
    let described = format!("{query:?}");
    loop {
        query.limit = 1 + random.below(9) as usize;
        query.max_bytes = random.pick(&[0, 600, 2000, usize::MAX]);
        let page = read(log, query.clone()).await;
        let found: Vec<u64> = page.events.iter().map(|event| event.position.0).collect();
        let (now, later) = rest.split_at(found.len().min(rest.len()));
        assert_eq!(found, now, "{described}");
        assert!(found.len() <= query.limit, "{described}");
        assert_eq!(page.next, later.first().map(|position| key(*position)), "{described}");
        assert!(!found.is_empty() || rest.is_empty(), "{described}: a page must move on");
        assert_eq!(page.last_revision.map(|revision| revision.0), last.copied(), "{described}");
        assert_eq!(page.head, model.events.len() as u64);
        for event in &page.events {
            let modelled = &model.events[event.position.0 as usize];
            assert_eq!((event.stream.as_str(), event.revision.0), (modelled.stream, modelled.revision));
        }
        rest = later;
        match page.next {
            Some(next) => query.from = Some(next),
            None => break,
        }
    }
    assert!(rest.is_empty(), "{described}: {rest:?} never came");
}
