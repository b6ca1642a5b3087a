//! Invariants: an append that would break one is refused.
//!
//! Owns: the check before an append, and the expectation that makes its result hold: an append is only let go with the
//! revision that was checked, so the log refuses it when anything came between. Must not know: HTTP. The state is
//! computed without opening anything: an invariant speaks of public members only, so it must not matter who has been
//! forgotten, nor whether keys can be reached.
//!
//! Replays. A repeated append must be answered as one even if its events would break an invariant today. Only the log
//! knows replays, and it looks for them before it looks at expectations. So where a refused append may be a replay (every
//! event has a caller's id, or there is an idempotency key), it is handed in with an expectation that nothing meets: the
//! log answers the replay, or refuses, and then the invariant's answer stands.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

pub use super::draft::PeopleError;
use super::draft::{self, People, Place};
use super::{FoldError, FoldState, Folds, Opening, matches};
use crate::append::{AppendDone, AppendError, AppendRequest, Appender, StreamDraft};
use crate::event::{ExpectedRevision, Position, Revision};
use crate::eventlog::Refused;
use crate::projection::apply::{self, Outcome};
use crate::projection::definition::{Definition, Kind};
use crate::projection::expression::{Expression, Inputs};
use crate::projection::row::Row;
use crate::schema::Prepared;

/// Times an append is checked again because another one came first.
const TRIES: usize = 5;
/// Locks over which streams are spread.
const TURNS: usize = 1024;
/// No stream is ever there.
const NEVER: ExpectedRevision = ExpectedRevision::Exact(Revision(i64::MAX as u64));

/// Lets through only appends that break no invariant.
pub struct Guard {
    folds: Arc<Folds>,
    appender: Appender,
    /// Guarded appends to one stream take turns in this process, so that they do not run into each other.
    turns: Vec<Mutex<()>>,
}

/// What was found about one stream of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// No invariant is concerned.
    Free,
    /// All invariants hold if the events come right here.
    At(ExpectedRevision),
    /// The stream is not where the caller expects it; nothing was checked, and nothing may be appended.
    Elsewhere,
}

impl Checked {
    /// What the append is let go with.
    fn expectation(self, stated: Option<ExpectedRevision>) -> Option<ExpectedRevision> {
        match self {
            Self::Free => stated,
            Self::At(expected) => Some(expected),
            Self::Elsewhere => Some(NEVER),
        }
    }
}

/// Why an append was not let through. Holds no values.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An invariant would not hold.
    #[error("the invariant of {fold} would not hold")]
    Violated {
        /// The fold.
        fold: String,
        /// Index of the stream.
        stream: usize,
        /// Index of the event after which it does not hold.
        event: usize,
    },
    /// It cannot be told.
    #[error("the invariant of {fold} cannot be checked: {message}")]
    Failed {
        /// The fold.
        fold: String,
        /// Index of the stream.
        stream: usize,
        /// Index of the event; `None` when it is one in the log already.
        event: Option<usize>,
        /// Stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The state cannot be had.
    #[error(transparent)]
    State(FoldError),
    /// People cannot be looked up.
    #[error(transparent)]
    People(#[from] PeopleError),
    /// Others appended to the stream each time.
    #[error("other appends came first")]
    Contended,
}

/// Why a guarded append failed.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError {
    /// As any append.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The guard refused.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

impl Guard {
    /// A guard in front of an appender.
    pub fn new(folds: Arc<Folds>, appender: Appender) -> Self {
        Self { folds, appender, turns: (0..TURNS).map(|_| Mutex::new(())).collect() }
    }

    /// Appends, if every invariant holds after every event.
    ///
    /// # Errors
    /// [`GuardedError`]; nothing was written then, as for [`Appender::append`].
    pub async fn append(&self, mut request: AppendRequest) -> Result<AppendDone, GuardedError> {
        let guards = self.folds.definitions.guards();
        if !request.appends.iter().any(|draft| guards.iter().any(|guard| concerns(guard, draft))) {
            return Ok(self.appender.append(&request).await?);
        }
        let stated: Vec<Option<ExpectedRevision>> = request.appends.iter().map(|draft| draft.expected).collect();
        let _turns = self.turns(&request.appends).await;
        for _ in 0..TRIES {
            let (checks, refusal) = match self.check(&guards, &request.appends).await {
                Ok(checks) => (checks, None),
                Err(refusal) => match refusal.stream().filter(|_| may_be_replay(&request)) {
                    Some(stream) => {
                        let mut checks = vec![Checked::Free; request.appends.len()];
                        checks[stream] = Checked::Elsewhere;
                        (checks, Some(refusal))
                    }
                    None => return Err(refusal.into()),
                },
            };
            for (draft, check) in request.appends.iter_mut().zip(&checks) {
                draft.expected = check.expectation(draft.expected);
            }
            let done = self.appender.append(&request).await;
            for (draft, stated) in request.appends.iter_mut().zip(&stated) {
                draft.expected = *stated;
            }
            match done {
                Err(AppendError::Refused(refused @ Refused::WrongExpectedRevision { .. })) => {
                    if let Some(refusal) = refusal {
                        return Err(refusal.into());
                    }
                    if let Some(refused) = final_answer(&request, &checks, refused) {
                        return Err(AppendError::Refused(refused).into());
                    }
                }
                other => return Ok(other?),
            }
        }
        Err(GuardError::Contended.into())
    }

    /// Checks an append against these folds as the streams are now.
    ///
    /// # Errors
    /// [`GuardError`].
    pub async fn check(&self, guards: &[Arc<Definition>], appends: &[StreamDraft]) -> Result<Vec<Checked>, GuardError> {
        let mut checks = Vec::with_capacity(appends.len());
        for (at, draft) in appends.iter().enumerate() {
            let concerned: Vec<&Arc<Definition>> = guards.iter().filter(|guard| concerns(guard, draft)).collect();
            let check = if concerned.is_empty() { Checked::Free } else { self.draft(&concerned, at, draft).await? };
            checks.push(check);
        }
        Ok(checks)
    }

    async fn draft(
        &self,
        concerned: &[&Arc<Definition>],
        at: usize,
        draft: &StreamDraft,
    ) -> Result<Checked, GuardError> {
        let parts = &self.folds.parts;
        let rules = parts.registry.rules(&draft.stream);
        if rules.settings().require_expected && draft.expected.is_none() {
            // Refused for that.
            return Ok(Checked::Free);
        }
        let prepared = draft.events.iter().map(|event| rules.prepare(Cow::Borrowed(event)));
        // The appender says what is wrong with it.
        let Ok(prepared) = prepared.collect::<Result<Vec<_>, _>>() else { return Ok(Checked::Elsewhere) };
        let people = draft::people(&parts.keys, &parts.entropy, &prepared).await?;
        let mut found: Option<Option<Revision>> = None;
        for definition in concerned {
            let state = self.folds.state(definition, &draft.stream, None, Opening::Nothing).await;
            let state = state.map_err(|error| GuardError::of_state(error, definition, at))?;
            let current = state.as_ref().map(|state| state.current);
            if draft.expected.is_some_and(|expected| !expected.is_met_by(current)) {
                return Ok(Checked::Elsewhere);
            }
            self.events(definition, at, draft, (&prepared, &people), state)?;
            // Of two folds that saw different revisions one is out of date: the lesser is refused by the log.
            found = Some(found.map_or(current, |other| other.min(current)));
        }
        let current = found.flatten();
        Ok(Checked::At(current.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact)))
    }

    fn events(
        &self,
        definition: &Definition,
        at: usize,
        draft: &StreamDraft,
        (prepared, people): (&[Prepared<'_>], &People),
        state: Option<FoldState>,
    ) -> Result<(), GuardError> {
        let Kind::Fold { invariant: Some(invariant), .. } = &definition.kind else { return Ok(()) };
        let parts = &self.folds.parts;
        let next = state.as_ref().map_or(0, |state| state.current.0 + 1);
        let mut row = state.map_or_else(|| Row::new(&definition.columns, serde_json::Map::new()), |state| state.row);
        let head = *parts.log.watch().borrow();
        for (event, prepared) in prepared.iter().enumerate() {
            if !matches(&definition.from, &draft.stream, &prepared.event.event_type) {
                continue;
            }
            let place = Place {
                stream: &draft.stream,
                revision: Revision(next + event as u64),
                position: Position(head + event as u64),
                at: parts.clock.now(),
            };
            let fold = || definition.name.to_string();
            let failed =
                |code, message| GuardError::Failed { fold: fold(), stream: at, event: Some(event), code, message };
            let view = draft::view(prepared, people, &parts.registry, &place);
            match apply::fold(definition, &row, &view).map_err(|error| failed(error.code(), error.to_string()))? {
                Outcome::Changed(changed) => row = changed,
                Outcome::Unchanged | Outcome::Deleted => {}
            }
            if !holds(invariant, definition, &row).map_err(|(code, message)| failed(code, message))? {
                return Err(GuardError::Violated { fold: fold(), stream: at, event });
            }
        }
        Ok(())
    }

    /// Waits for the streams' turns, always in the same order.
    async fn turns(&self, appends: &[StreamDraft]) -> Vec<MutexGuard<'_, ()>> {
        let turn = |draft: &StreamDraft| {
            let mut hasher = DefaultHasher::new();
            draft.stream.hash(&mut hasher);
            hasher.finish() as usize % TURNS
        };
        let mut numbers: Vec<usize> = appends.iter().map(turn).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut turns = Vec::with_capacity(numbers.len());
        for number in numbers {
            turns.push(self.turns[number].lock().await);
        }
        turns
    }
}

impl GuardError {
    fn of_state(error: FoldError, definition: &Definition, stream: usize) -> Self {
        match error {
            FoldError::Event { position, code, message } => Self::Failed {
                fold: definition.name.to_string(),
                stream,
                event: None,
                code,
                message: format!("the event at position {position} cannot be folded: {message}"),
            },
            other => Self::State(other),
        }
    }

    /// The stream whose events were judged.
    fn stream(&self) -> Option<usize> {
        match self {
            Self::Violated { stream, .. } | Self::Failed { stream, .. } => Some(*stream),
            Self::State(_) | Self::People(_) | Self::Contended => None,
        }
    }
}

fn concerns(definition: &Definition, draft: &StreamDraft) -> bool {
    draft.events.iter().any(|event| matches(&definition.from, &draft.stream, &event.event_type))
}

fn holds(invariant: &Expression, definition: &Definition, row: &Row) -> Result<bool, (&'static str, String)> {
    let personal = "the invariant would depend on personal data";
    if !apply::reads_public(invariant, &definition.columns, row) {
        return Err(("personal-data-in-the-clear", personal.to_owned()));
    }
    let nothing = serde_json::Value::Null;
    let clear = row.clear(&definition.columns);
    let inputs = Inputs { data: &nothing, event: &nothing, subject: &nothing, row: &clear, key: &nothing };
    match invariant.evaluate(&inputs) {
        Ok(Some(serde_json::Value::Bool(holds))) => Ok(holds),
        Ok(_) => Err(("type-mismatch", "invariant is not of type bool".to_owned())),
        Err(error) => Err(("cel-error", format!("invariant: {error}"))),
    }
}

fn may_be_replay(request: &AppendRequest) -> bool {
    let mut events = request.appends.iter().flat_map(|draft| &draft.events);
    request.idempotency.is_some() || events.all(|event| event.id.is_some())
}

/// What to answer when the log refused an expectation; `None` to check again.
fn final_answer(request: &AppendRequest, checks: &[Checked], refused: Refused) -> Option<Refused> {
    let Refused::WrongExpectedRevision { stream, expected, current } = refused else { return Some(refused) };
    let found = request.appends.iter().zip(checks).find(|(draft, _)| draft.stream == stream);
    match found.map(|(draft, check)| (draft.expected, check)) {
        // The expectation was ours alone.
        Some((None | Some(ExpectedRevision::Any | ExpectedRevision::Exists), Checked::At(_))) => None,
        Some((stated, Checked::Elsewhere)) => {
            let expected = stated.unwrap_or_default();
            Some(Refused::WrongExpectedRevision { stream, expected, current })
        }
        _ => Some(Refused::WrongExpectedRevision { stream, expected, current }),
    }
}
