//! Which keys were gone at a place in the log.
//!
//! Owns: the fold of erasures and re-authorisations up to a position. Fences say what is gone now; a projection that is
//! computed again must decide about rows as it did the first time, when later forgets had not happened yet. Must not
//! know: rows, keys. A fence covers generations as the log's own fences do: one more for each return before it.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::event::{EventType, Position, SubjectRef};
use crate::eventlog::{Direction, EventLog, Filter, ReadError, ReadQuery};
use crate::projection::owners::Alternative;
use crate::subscription::ERASURE_EVENT;

/// What an erasure covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole person.
    Person,
    /// Some purposes.
    Purposes(Vec<String>),
}

impl Scope {
    /// Whether a key for this purpose goes.
    pub fn covers(&self, purpose: &str) -> bool {
        match self {
            Self::Person => true,
            Self::Purposes(purposes) => purposes.iter().any(|one| one == purpose),
        }
    }
}

/// Whose data an erasure or a return is about. Other members are of no interest here.
#[derive(Deserialize)]
struct Told {
    subject: Option<String>,
    purposes: Option<Vec<String>>,
}

/// Person and scope of an event that erases; `None` when it cannot be read.
pub fn erasure(public: &str) -> Option<(SubjectRef, Scope)> {
    let told: Told = serde_json::from_str(public).ok()?;
    Some((SubjectRef::parse(&told.subject?)?, told.purposes.map_or(Scope::Person, Scope::Purposes)))
}

/// Everything that was gone at a position.
#[derive(Debug, Default)]
pub struct Past {
    people: HashSet<SubjectRef>,
    /// Generations up to which, and whether later ones are allowed again.
    purposes: HashMap<(SubjectRef, String), (u32, bool)>,
}

const RETURN_EVENT: &str = "data-subject-reauthorized";

impl Past {
    /// Folds the log up to a position, which is included.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn until(log: &dyn EventLog, position: u64) -> Result<Self, ReadError> {
        let mut past = Self::default();
        let types = [ERASURE_EVENT, RETURN_EVENT].map(|name| EventType::parse(name).expect("a valid event type"));
        let mut from = Some(0);
        while let Some(at) = from {
            let query = ReadQuery {
                stream: None,
                from: Some(at),
                direction: Direction::Forward,
                limit: 500,
                max_bytes: 4 << 20,
                until: Some(Position(position)),
                filter: Filter { category: None, types: types.to_vec(), subject: None },
                system: true,
            };
            let page = log.read(query).await?;
            for event in page.events.iter().filter(|event| event.stream.is_system()) {
                let corrupt = || ReadError::Corrupt { table: "events", column: "public", row: event.position.0 };
                let told: Told = serde_json::from_str(&event.public).map_err(|_| corrupt())?;
                past.apply(event.event_type.as_str() == ERASURE_EVENT, told).ok_or_else(corrupt)?;
            }
            from = page.next;
        }
        Ok(past)
    }

    fn apply(&mut self, erases: bool, told: Told) -> Option<()> {
        // The return of a wholly forgotten person names no pseudonym.
        let Some(subject) = told.subject else { return Some(()) };
        let subject = SubjectRef::parse(&subject)?;
        match told.purposes {
            None if erases => drop(self.people.insert(subject)),
            None => {}
            Some(purposes) => {
                for purpose in purposes {
                    match self.purposes.get_mut(&(subject, purpose.clone())) {
                        Some(known) if erases => *known = (known.0 + u32::from(known.1), false),
                        Some(known) => known.1 = true,
                        None if erases => drop(self.purposes.insert((subject, purpose), (0, false))),
                        None => {}
                    }
                }
            }
        }
        Some(())
    }

    /// Whether a way to read a value was closed.
    pub fn closes(&self, way: &Alternative) -> bool {
        way.people.iter().any(|(person, generation)| {
            let purpose = self.purposes.get(&(*person, way.purpose.as_str().to_owned()));
            self.people.contains(person) || purpose.is_some_and(|(up_to, _)| generation <= up_to)
        })
    }
}
