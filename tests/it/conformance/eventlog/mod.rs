//! What every event-log engine promises, against the trait alone.
//!
//! An engine mounts the suite with `eventlog_suite!(Rig)`, where the rig makes, closes and opens logs of one place, and
//! runs statements behind the log's back. Events are sealed by the real sealer.

pub mod append;
pub mod fence;
pub mod model;
pub mod read;
pub mod records;
pub mod removal;

use std::borrow::Cow;
use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::event::{
    Category, EventId, EventType, ExpectedRevision, NewEvent, Pointer, Position, Purpose, Revision, StoreId,
    StreamName, SubjectKey, SubjectRef,
};
use oubliette::eventlog::{
    Appended, Batch, Direction, Effect, EventLog, Filter, Job, Page, ReadQuery, Refused, StreamAppend,
};
use oubliette::keystore::{Dek, DekId};
use oubliette::schema::{PersonalField, Prepared, SubjectSite};
use oubliette::sealing::{Person, SealedEvent, Sealer};
use oubliette::secret::Entropy;
use serde_json::{Map, Value};

pub const STORE: StoreId = StoreId([7; 16]);

/// One place that holds an event log.
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
    /// Opens the log, making it the first time. The one before must be closed or dropped.
    fn open(&self) -> Arc<dyn EventLog>;
    /// Runs one statement on the database itself: how many rows it changed, or that it was refused.
    fn execute(&self, sql: &str) -> Result<usize, String>;
    /// How the engine writes bytes in a statement.
    fn bytes(&self, bytes: &[u8]) -> String;
}

macro_rules! suite {
    ($($module:ident: $($name:ident),+;)+) => {
        /// Mounts the suite on one engine.
        macro_rules! eventlog_suite {
            ($rig:ty) => {
                $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let Some(rig) = <$rig as $crate::conformance::eventlog::Rig>::place() else { return };
                    $crate::conformance::eventlog::$module::$name(&rig).await;
                })+)+
            };
        }
        pub(crate) use eventlog_suite;
    };
}

suite! {
    append:
        a_new_log_is_empty,
        positions_and_revisions_are_dense_from_zero,
        every_expectation_against_every_stream,
        a_job_is_all_or_nothing,
        jobs_of_a_batch_succeed_or_fail_alone,
        a_batch_behaves_as_if_its_jobs_came_one_by_one,
        a_large_batch_lands_whole,
        the_same_ids_again_are_a_replay,
        some_of_the_ids_again_are_a_conflict,
        ids_in_another_order_are_a_conflict,
        ids_that_did_not_land_together_are_a_conflict,
        ids_belong_to_their_stream,
        ids_of_ours_never_replay,
        an_idempotency_key_replays_its_answer,
        an_idempotency_key_with_another_request_is_refused,
        an_idempotency_key_expires,
        a_refused_request_is_not_remembered,
        a_condition_on_a_stream,
        a_condition_on_what_is_not_there,
        a_condition_sees_earlier_jobs_of_the_batch,
        recorded_times_never_go_back,
        many_writers_at_once,
        the_head_is_the_tree_over_all_leaves;
    fence:
        a_fenced_person_takes_no_slot,
        a_fenced_purpose_leaves_the_others,
        a_fence_holds_for_later_jobs_of_its_batch,
        a_refused_job_does_not_fence,
        naming_a_person_under_a_fence,
        a_reauthorised_purpose_continues_with_the_next_generation,
        nothing_reauthorises_a_whole_person,
        the_database_refuses_a_slot_behind_a_fence,
        a_page_brings_the_fences_of_everyone_in_it,
        history_refuses_to_be_changed,
        salts_and_ciphertext_may_go;
    read:
        a_stream_in_both_directions,
        a_stream_that_is_not_there,
        all_events_with_and_without_the_systems_own,
        filters_alone_and_together,
        a_filter_by_person_in_a_stream,
        a_type_named_twice_comes_once,
        limits_of_count_and_bytes,
        until_a_position,
        numbers_beyond_every_row,
        a_position_at_a_time,
        streams_are_listed_by_name;
    removal:
        removed_slots_leave_everything_else,
        nobody_living_loses_a_slot,
        what_came_after_a_reauthorisation_stays,
        removals_of_one_batch_add_up,
        a_column_that_cannot_be_read_is_left;
    records:
        the_footprint_comes_in_pages,
        the_erasure_record_is_dense_and_chained,
        an_erasure_is_completed_once,
        requests_are_listed_by_id_and_status,
        the_access_log_is_read_backwards,
        access_and_appends_land_together,
        the_watch_ticks_with_every_commit,
        everything_survives_closing,
        everything_survives_a_drop_without_closing,
        a_closed_log_refuses_everything,
        audit_rows_are_what_was_appended,
        a_lost_answer_is_settled_by_the_ids;
    model:
        random_histories_read_like_the_model;
}

/// Seals events with keys that nobody keeps: the log never looks inside.
pub struct Maker {
    sealer: Sealer,
    entropy: Entropy,
}

/// Whom an event is about: pseudonym, purpose and generation of a slot; no purpose where it only names the person.
pub type About<'a> = (SubjectRef, Option<(&'a str, u32)>);

impl Maker {
    pub fn new() -> Self {
        Self { sealer: Sealer::new(STORE, Arc::new(Entropy::system()), 64), entropy: Entropy::system() }
    }

    /// An event about nobody.
    pub fn plain(&self, event_type: &str) -> SealedEvent {
        self.event(event_type, None, &[])
    }

    /// An event with a slot for each purpose.
    pub fn about(&self, event_type: &str, about: &[About<'_>]) -> SealedEvent {
        self.event(event_type, None, about)
    }

    /// An event whose id the caller chose.
    pub fn with_id(&self, id: u8, event_type: &str) -> SealedEvent {
        self.event(event_type, Some(EventId([id; 16])), &[])
    }

    pub fn event(&self, event_type: &str, id: Option<EventId>, about: &[About<'_>]) -> SealedEvent {
        let mut data = Map::from_iter([("note".to_owned(), Value::from("x".repeat(20)))]);
        let (mut subjects, mut fields, mut people) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (subject, slot)) in about.iter().enumerate() {
            let pointer = |name: &str| Some(Pointer::parse(&format!("/{name}{at}")).unwrap());
            data.insert(format!("id{at}"), Value::from("somebody"));
            subjects.push(SubjectSite { subject: SubjectKey::Ref(*subject), path: pointer("id"), natural: None });
            let mut keys = Vec::new();
            if let Some((name, generation)) = slot {
                data.insert(format!("value{at}"), Value::from("secret"));
                let id = DekId { subject: *subject, purpose: purpose(name), generation: *generation };
                keys.push((id, Arc::new(Dek::generate().unwrap())));
                fields.push(PersonalField {
                    path: pointer("value").unwrap(),
                    owners: vec![at],
                    joint: false,
                    purposes: [purpose(name)].into(),
                    category: None,
                    inline_placeholder: None,
                    inline: true,
                });
            }
            people.push(Person { subject: *subject, keys });
        }
        let event = NewEvent {
            id,
            event_type: event_type_of(event_type),
            schema_version: None,
            data: Value::Object(data),
            marks: vec![],
            actor: None,
            correlation_id: None,
            causation_id: None,
            time: None,
            source: None,
            source_id: None,
        };
        let event = Cow::Owned(event);
        let prepared = Prepared { event, schema_version: None, subjects, fields, findings: vec![] };
        let id = id.unwrap_or_else(|| EventId(self.entropy.draw().unwrap()));
        self.sealer.seal(id, &prepared, &people).unwrap()
    }
}

pub fn person(number: u8) -> SubjectRef {
    SubjectRef([number; 16])
}

pub fn purpose(name: &str) -> Purpose {
    Purpose::parse_any(name).unwrap()
}

pub fn stream(name: &str) -> StreamName {
    StreamName::parse_any(name).unwrap()
}

pub fn category(name: &str) -> Category {
    Category::parse_any(name).unwrap()
}

pub fn event_type_of(name: &str) -> EventType {
    EventType::parse_any(name).unwrap()
}

/// A job that appends to one stream at a time of the suite's own.
pub fn job(name: &str, expected: ExpectedRevision, events: Vec<SealedEvent>) -> Job {
    jobs(vec![(name, expected, events)])
}

/// A job that appends to several.
pub fn jobs(appends: Vec<(&str, ExpectedRevision, Vec<SealedEvent>)>) -> Job {
    let append = |(name, expected, events): (&str, _, _)| StreamAppend { stream: stream(name), expected, events };
    Job {
        appends: appends.into_iter().map(append).collect(),
        conditions: vec![],
        idempotency: None,
        effects: vec![],
        at: Millis(1000),
    }
}

/// A job of effects alone.
pub fn effects(effects: Vec<Effect>) -> Job {
    Job { effects, ..jobs(vec![]) }
}

/// A fence for a whole person or for purposes.
pub fn fence(subject: SubjectRef, purposes: &[&str], request: &str) -> Effect {
    Effect::Fence {
        subject,
        purposes: (!purposes.is_empty()).then(|| purposes.iter().map(|name| purpose(name)).collect()),
        basis: "gdpr:A17-1-b".into(),
        request: request.into(),
    }
}

pub async fn commit_all(log: &dyn EventLog, jobs: Vec<Job>) -> Vec<Result<Appended, Refused>> {
    log.commit(Batch { jobs, access: vec![] }).await.unwrap()
}

/// Commits one job that must be accepted.
pub async fn commit(log: &dyn EventLog, job: Job) -> Appended {
    commit_all(log, vec![job]).await.remove(0).unwrap()
}

/// Commits one job that must be refused.
pub async fn refused(log: &dyn EventLog, job: Job) -> Refused {
    commit_all(log, vec![job]).await.remove(0).unwrap_err()
}

/// Everything, forwards.
pub fn everything() -> ReadQuery {
    ReadQuery {
        stream: None,
        from: None,
        direction: Direction::Forward,
        limit: 1000,
        max_bytes: usize::MAX,
        until: None,
        filter: Filter::default(),
        system: true,
    }
}

pub fn of_stream(name: &str) -> ReadQuery {
    ReadQuery { stream: Some(stream(name)), ..everything() }
}

pub async fn read(log: &dyn EventLog, query: ReadQuery) -> Page {
    log.read(query).await.unwrap()
}

pub fn positions(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.position.0).collect()
}

pub fn places(appended: &Appended) -> Vec<(u64, u64)> {
    appended.streams.iter().map(|one| (one.first_revision.0, one.first_position.0)).collect()
}

pub const ANY: ExpectedRevision = ExpectedRevision::Any;

pub fn exactly(revision: u64) -> ExpectedRevision {
    ExpectedRevision::Exact(Revision(revision))
}

pub fn at(position: u64) -> Position {
    Position(position)
}
