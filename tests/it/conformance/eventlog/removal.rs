//! Removing ciphertext: only that of the forgotten, and nothing else of an event.

use oubliette::event::SubjectRef;
use oubliette::eventlog::{AuditRow, Effect, EventLog, Job, Refused};
use oubliette::sealing::envelope;

use super::{ANY, Maker, Rig, at, commit, commit_all, effects, fence, job, person, purpose, refused};

/// Positions, and numbers of slots there.
type Slots<'a> = &'a [(u64, &'a [u16])];

fn remove(subject: SubjectRef, events: Slots<'_>) -> Job {
    let events = events.iter().map(|(position, slots)| (at(*position), slots.to_vec())).collect();
    effects(vec![Effect::RemoveSlots { subject, events }])
}

fn kept(position: u64) -> Refused {
    Refused::NotErased { position: at(position) }
}

async fn row(log: &dyn EventLog, position: u64) -> AuditRow {
    log.audit_rows(at(position), 1).await.unwrap().remove(0)
}

async fn sealed(log: &dyn EventLog, position: u64) -> Option<Vec<u8>> {
    row(log, position).await.event.sealed.map(|bytes| bytes.to_vec())
}

pub async fn removed_slots_leave_everything_else(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let about = [(person(1), Some(("general", 0))), (person(1), Some(("news", 0))), (person(2), Some(("general", 0)))];
    commit(&*log, job("a-1", ANY, vec![make.about("t", &about), make.about("t", &about[..1])])).await;
    let (before, other) = (row(&*log, 0).await, sealed(&*log, 1).await);
    let head = log.head().await.unwrap();
    commit(&*log, effects(vec![fence(person(1), &[], "fr_1")])).await;
    let column = before.event.sealed.as_deref().unwrap();
    for (slots, gone) in [(&[0_u16][..], &[0_u16][..]), (&[0], &[0]), (&[1, 0], &[0, 1])] {
        commit(&*log, remove(person(1), &[(0, slots)])).await;
        assert_eq!(sealed(&*log, 0).await, envelope::without(column, gone).unwrap());
    }
    assert_eq!(sealed(&*log, 1).await, other);
    log.close().await;
    let log = rig.open();
    let after = row(&*log, 0).await;
    assert_eq!((after.leaf, &after.commitments, &after.salts), (before.leaf, &before.commitments, &before.salts));
    assert_eq!((&*after.event.meta, &*after.event.public), (&*before.event.meta, &*before.event.public));
    assert_eq!(log.head().await.unwrap().frontier, head.frontier, "no leaf was touched");
    let left: Vec<bool> =
        envelope::slots(after.event.sealed.as_deref().unwrap()).map(|s| s.unwrap().is_some()).collect();
    assert_eq!(left, [false, false, true]);
    // The last of an event takes the column with it; twice is once.
    for _ in 0..2 {
        commit(&*log, remove(person(1), &[(0, &[0, 1]), (1, &[0])])).await;
        assert_eq!(sealed(&*log, 1).await, None);
    }
}

pub async fn nobody_living_loses_a_slot(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let about = [(person(1), Some(("general", 0))), (person(1), Some(("news", 0))), (person(2), Some(("general", 0)))];
    commit(&*log, job("a-1", ANY, vec![make.about("t", &about), make.about("t", &[(person(1), None)])])).await;
    let before = sealed(&*log, 0).await;
    assert_eq!(refused(&*log, remove(person(1), &[(0, &[0])])).await, kept(0), "nobody is forgotten");
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_1"), fence(person(3), &[], "fr_2")])).await;
    let cases: [(u8, Slots<'_>, u64); 7] = [
        (1, &[(0, &[0])], 0),
        (1, &[(0, &[1, 0])], 0),
        (1, &[(0, &[1]), (0, &[2])], 0),
        (2, &[(0, &[2])], 0),
        (3, &[(0, &[0])], 0),
        (1, &[(1, &[0])], 1),
        (1, &[(0, &[1]), (9, &[0])], 9),
    ];
    for (who, events, position) in cases {
        assert_eq!(refused(&*log, remove(person(who), events)).await, kept(position), "{who} {events:?}");
    }
    // Whoever is in the same batch is not touched by it; what is in the same job does not happen.
    let wrong = Job { appends: job("b-1", ANY, vec![make.plain("t")]).appends, ..remove(person(2), &[(0, &[2])]) };
    let outcomes = commit_all(&*log, vec![wrong, job("c-1", ANY, vec![make.plain("t")])]).await;
    assert_eq!((outcomes[0].clone(), outcomes[1].is_ok()), (Err(kept(0)), true));
    assert_eq!((log.head().await.unwrap().next, sealed(&*log, 0).await), (at(3), before));
    commit(&*log, remove(person(1), &[(0, &[1])])).await;
}

pub async fn what_came_after_a_reauthorisation_stays(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let news = |generation| job("a-1", ANY, vec![make.about("t", &[(person(1), Some(("news", generation)))])]);
    commit(&*log, news(0)).await;
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_1")])).await;
    let open = Effect::Reauthorize { subject: person(1), purposes: vec![purpose("news")] };
    commit(&*log, effects(vec![open])).await;
    commit(&*log, news(1)).await;
    assert_eq!(refused(&*log, remove(person(1), &[(0, &[0]), (1, &[0])])).await, kept(1));
    commit(&*log, remove(person(1), &[(0, &[0])])).await;
    assert_eq!((sealed(&*log, 0).await, sealed(&*log, 1).await.is_some()), (None, true));
    // Restricted is not erased: it may have to be shown again.
    commit(&*log, effects(vec![fence(person(1), &["news"], "fr_2")])).await;
    assert_eq!(rig.execute("update fences set state = 'restricted'"), Ok(1));
    assert_eq!(refused(&*log, remove(person(1), &[(1, &[0])])).await, kept(1));
}

pub async fn removals_of_one_batch_add_up(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    let about: Vec<_> = (1..=3).map(|number| (person(number), Some(("general", 0)))).collect();
    commit(&*log, job("a-1", ANY, vec![make.about("t", &about)])).await;
    let column = sealed(&*log, 0).await.unwrap();
    commit(&*log, effects((1..=3).map(|number| fence(person(number), &[], &format!("fr_{number}"))).collect())).await;
    let batch =
        vec![remove(person(1), &[(0, &[0])]), job("b-1", ANY, vec![make.plain("t")]), remove(person(3), &[(0, &[2])])];
    assert!(commit_all(&*log, batch).await.iter().all(Result::is_ok));
    assert_eq!(sealed(&*log, 0).await, envelope::without(&column, &[0, 2]).unwrap());
    let twice = vec![remove(person(2), &[(0, &[1])]), remove(person(2), &[(0, &[1])])];
    assert!(commit_all(&*log, twice).await.iter().all(Result::is_ok));
    assert_eq!(sealed(&*log, 0).await, None);
}

pub async fn a_column_that_cannot_be_read_is_left(rig: &impl Rig) {
    let (log, make) = (rig.open(), Maker::new());
    commit(&*log, job("a-1", ANY, vec![make.about("t", &[(person(1), Some(("general", 0)))])])).await;
    commit(&*log, effects(vec![fence(person(1), &[], "fr_1")])).await;
    let broken = [0, 0, 0, 9, 1];
    assert_eq!(rig.execute(&format!("update events set sealed = {}", rig.bytes(&broken))), Ok(1));
    assert_eq!(refused(&*log, remove(person(1), &[(0, &[0])])).await, kept(0));
    assert_eq!(sealed(&*log, 0).await.as_deref(), Some(&broken[..]));
}
