//! The registry itself: versions by type, settings by category.
//!
//! Owns: the fold of [`RegistryRecord`]s and what may be asked of it. Must not know: where records are stored. Keeps:
//! readers share one immutable snapshot and never wait for a registration; a version never changes once it is there,
//! except that it can be deprecated.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::compat::{self, CompatReport, Compatibility};
use super::document::Compiled;
use super::inventory::{InventoryItem, TypeSummary};
use super::pattern::{Pattern, Step};
use super::personal::FieldMark;
use super::prepare::{self, Rules};
use super::{CategorySettings, LeakGuard, Options, Prepared, RegistryRecord, SchemaPolicy, Violation};
use crate::event::{Category, EventType, NewEvent, Pointer, StreamName};

/// All schemas and category settings of a store.
#[derive(Debug)]
pub struct Registry {
    options: Options,
    state: RwLock<Arc<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    types: HashMap<EventType, Arc<Type>>,
    categories: BTreeMap<Category, Arc<CategorySettings>>,
}

#[derive(Clone, Debug, Default)]
struct Type {
    compatibility: Compatibility,
    /// Version n is at n - 1.
    versions: Vec<Arc<SchemaVersion>>,
}

/// What holds for the events of one stream at one moment.
pub struct StreamRules {
    state: Arc<State>,
    settings: Arc<CategorySettings>,
    /// What the stream's name looks like, where the leak guard looks.
    stream_shape: Option<&'static str>,
}

/// One version of an event type's schema.
#[derive(Clone, Debug)]
pub struct SchemaVersion {
    /// From 1, without gaps.
    pub version: u32,
    /// As handed in.
    pub schema: Arc<Value>,
    /// Whether new events without a version get another one.
    pub deprecated: bool,
    /// What is personal in it.
    pub marks: Arc<[Arc<FieldMark>]>,
    compiled: Arc<Compiled>,
}

/// A schema that could be registered now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The version it would get, or has.
    pub version: u32,
    /// The schema as handed in.
    pub schema: Value,
    /// It equals the latest version: there is nothing to register.
    pub unchanged: bool,
    /// What was compared.
    pub report: CompatReport,
    /// What is personal in it.
    pub marks: Arc<[Arc<FieldMark>]>,
    compiled: Arc<Compiled>,
}

impl Candidate {
    /// The first thing in which the data of a stored event breaks the schema.
    pub fn breaks(&self, data: &Value) -> Option<Violation> {
        self.compiled.violations(data).into_iter().next()
    }
}

/// A schema that cannot be registered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The schema itself is wrong.
    #[error("the schema has {} problems", .0.len())]
    Invalid(Vec<Violation>),
    /// It does not go with the earlier versions.
    #[error("the schema has {} incompatible changes", .0.errors.len())]
    Incompatible(CompatReport),
    /// It protects less than the latest version; the data-protection officer must acknowledge this.
    #[error("the schema removes or changes {} privacy marks", .0.len())]
    PrivacyAckRequired(Vec<Violation>),
}

impl Registry {
    /// Without schemas and settings.
    pub fn new(options: Options) -> Self {
        Self { options, state: RwLock::default() }
    }

    /// Folds one record in: at start-up, and after a registration has become durable. Idempotent.
    ///
    /// # Errors
    /// When the record contradicts what is there, or its schema is not valid.
    pub fn apply(&self, record: &RegistryRecord) -> Result<(), Vec<Violation>> {
        match record {
            RegistryRecord::SchemaRegistered { event_type, version, schema } => {
                let event_type = parse_type(event_type)?;
                let known = self.snapshot().types.get(&event_type).map_or(0, |entry| entry.versions.len() as u32);
                if *version <= known && *version > 0 {
                    let same = self.version(event_type.as_str(), Some(*version)).is_some_and(|v| *v.schema == *schema);
                    return if same { Ok(()) } else { Err(contradiction("another schema has this version")) };
                }
                // Compiling takes long: not under the lock.
                let compiled = Arc::new(Compiled::new(schema)?);
                self.change_type(event_type, |entry| {
                    if *version as usize != entry.versions.len() + 1 {
                        return Err(contradiction("versions are registered in order"));
                    }
                    entry.versions.push(Arc::new(SchemaVersion::new(*version, compiled)));
                    Ok(())
                })
            }
            RegistryRecord::SchemaDeprecated { event_type, version } => {
                self.change_type(parse_type(event_type)?, |entry| {
                    let at = (*version as usize).wrapping_sub(1);
                    let old = entry.versions.get_mut(at).ok_or_else(|| contradiction("there is no such version"))?;
                    Arc::make_mut(old).deprecated = true;
                    Ok(())
                })
            }
            RegistryRecord::SchemaSettingsChanged { event_type, compatibility } => {
                self.change_type(parse_type(event_type)?, |entry| {
                    entry.compatibility = *compatibility;
                    Ok(())
                })
            }
            RegistryRecord::CategoryChanged { category, settings } => {
                let category = Category::parse_any(category)
                    .map_err(|error| vec![Violation::new("invalid-name", "/category", error.to_string())])?;
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                Arc::make_mut(&mut state).categories.insert(category, Arc::new(settings.clone()));
                Ok(())
            }
        }
    }

    /// Parses a schema, checks its marks and placeholders, and compares it with the earlier versions. Stores nothing.
    /// `privacy_ack`: the data-protection officer has acknowledged that marks go away or change.
    ///
    /// # Errors
    /// [`RegistrationError`] says what kind of problem there is, and every one of that kind.
    pub fn check(
        &self,
        event_type: &EventType,
        schema: &Value,
        privacy_ack: bool,
    ) -> Result<Candidate, RegistrationError> {
        let state = self.snapshot();
        let entry = state.types.get(event_type);
        let mode = entry.map(|entry| entry.compatibility).unwrap_or_default();
        let versions = entry.map_or(&[][..], |entry| &entry.versions);
        if let Some(latest) = versions.last().filter(|latest| *latest.schema == *schema) {
            let report = CompatReport { mode, checked_versions: 0, errors: Vec::new() };
            return Ok(Candidate {
                version: latest.version,
                schema: schema.clone(),
                unchanged: true,
                report,
                marks: Arc::clone(&latest.marks),
                compiled: Arc::clone(&latest.compiled),
            });
        }
        let compiled = Compiled::new(schema).map_err(RegistrationError::Invalid)?;
        let earlier: Vec<(u32, &Value)> = versions.iter().map(|v| (v.version, &*v.schema)).collect();
        let report = compat::check(mode, &earlier, schema);
        if !report.errors.is_empty() {
            return Err(RegistrationError::Incompatible(report));
        }
        let exposed = versions.last().map(|latest| compat::exposed(&latest.compiled, &compiled)).unwrap_or_default();
        if !exposed.is_empty() && !privacy_ack {
            return Err(RegistrationError::PrivacyAckRequired(exposed));
        }
        Ok(Candidate {
            version: versions.len() as u32 + 1,
            schema: schema.clone(),
            unchanged: false,
            report,
            marks: Arc::clone(&compiled.fields),
            compiled: Arc::new(compiled),
        })
    }

    /// Validates an event and finds the people and the personal values in it.
    ///
    /// # Errors
    /// All violations at once; pointers like `/data/contact_method`.
    pub fn prepare<'e>(&self, stream: &StreamName, event: Cow<'e, NewEvent>) -> Result<Prepared<'e>, Vec<Violation>> {
        self.rules(stream).prepare(event)
    }

    /// What holds for events of a stream now, looked up once for several of them.
    pub fn rules(&self, stream: &StreamName) -> StreamRules {
        let state = self.snapshot();
        let settings = self.settings(&state, &stream.category());
        let looked_at = settings.leak_guard != LeakGuard::Off;
        StreamRules { stream_shape: looked_at.then(|| prepare::stream_shape(stream)).flatten(), state, settings }
    }

    /// What is shown in place of the personal value at a concrete path, and what else its mark says. `version`: `None`
    /// for the latest.
    pub fn placeholder(&self, event_type: &str, version: Option<u32>, path: &Pointer) -> Option<Arc<FieldMark>> {
        let state = self.snapshot();
        let version = state.types.get(event_type)?.find(version)?;
        let mark = version.compiled.marks.iter().find(|mark| mark.pattern.matches(path))?;
        Some(Arc::clone(&mark.field))
    }

    /// Rules of a category: as set, or the defaults.
    pub fn category_settings(&self, category: &Category) -> CategorySettings {
        CategorySettings::clone(&self.settings(&self.snapshot(), category))
    }

    /// Categories with rules of their own, by name.
    pub fn categories(&self) -> Vec<(Category, CategorySettings)> {
        let state = self.snapshot();
        state.categories.iter().map(|(name, settings)| (name.clone(), CategorySettings::clone(settings))).collect()
    }

    /// Event types with a schema, by name.
    pub fn types(&self) -> Vec<TypeSummary> {
        let state = self.snapshot();
        let summary = |(name, entry): (&EventType, &Arc<Type>)| {
            let latest = entry.versions.last()?;
            let deprecated = entry.versions.iter().filter(|v| v.deprecated).map(|v| v.version).collect();
            Some(TypeSummary {
                event_type: name.to_string(),
                latest: latest.version,
                deprecated,
                compatibility: entry.compatibility,
                personal: !latest.marks.is_empty(),
            })
        };
        let mut types: Vec<TypeSummary> = state.types.iter().filter_map(summary).collect();
        types.sort_by(|a, b| a.event_type.cmp(&b.event_type));
        types
    }

    /// A version of a type's schema; `None` for the latest.
    pub fn version(&self, event_type: &str, version: Option<u32>) -> Option<Arc<SchemaVersion>> {
        self.snapshot().types.get(event_type)?.find(version).cloned()
    }

    /// Every version of a type's schema, in order; none where the type has no schema.
    pub fn versions(&self, event_type: &str) -> Vec<Arc<SchemaVersion>> {
        self.snapshot().types.get(event_type).map(|entry| entry.versions.clone()).unwrap_or_default()
    }

    /// Whether events may carry in-line marks, so that what is personal in them is known only when they are there: unless
    /// the category is sealed, or, without one, every category is.
    pub fn takes_inline_marks(&self, category: Option<&Category>) -> bool {
        let state = self.snapshot();
        let open = |settings: &CategorySettings| settings.schema_policy != SchemaPolicy::Sealed;
        match category {
            Some(category) => open(&self.settings(&state, category)),
            None => {
                self.options.default_policy != SchemaPolicy::Sealed || state.categories.values().any(|own| open(own))
            }
        }
    }

    /// Every personal field of every version, by type, version and place.
    pub fn inventory(&self) -> Vec<InventoryItem> {
        let state = self.snapshot();
        let mut items = Vec::new();
        for (name, entry) in &state.types {
            for version in &entry.versions {
                items.extend(version.marks.iter().map(|mark| InventoryItem::new(name, version.version, mark)));
            }
        }
        items.sort_by(|a, b| (&a.event_type, a.version, &a.pointer).cmp(&(&b.event_type, b.version, &b.pointer)));
        items
    }

    /// How versions of a type must relate.
    pub fn compatibility(&self, event_type: &str) -> Compatibility {
        self.snapshot().types.get(event_type).map(|entry| entry.compatibility).unwrap_or_default()
    }

    fn snapshot(&self) -> Arc<State> {
        // A writer cannot leave a half-made state behind: it changes a copy and swaps.
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn settings(&self, state: &State, category: &Category) -> Arc<CategorySettings> {
        state.categories.get(category).cloned().unwrap_or_else(|| {
            Arc::new(CategorySettings {
                schema_policy: self.options.default_policy,
                leak_guard: self.options.default_leak_guard,
                ..CategorySettings::default()
            })
        })
    }

    fn change_type(
        &self,
        event_type: EventType,
        change: impl FnOnce(&mut Type) -> Result<(), Vec<Violation>>,
    ) -> Result<(), Vec<Violation>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut entry = state.types.get(&event_type).map(|entry| Type::clone(entry)).unwrap_or_default();
        change(&mut entry)?;
        Arc::make_mut(&mut state).types.insert(event_type, Arc::new(entry));
        Ok(())
    }
}

impl StreamRules {
    /// The rules of the stream's category.
    pub fn settings(&self) -> &CategorySettings {
        &self.settings
    }

    /// [`Registry::prepare`].
    ///
    /// # Errors
    /// As there.
    pub fn prepare<'e>(&self, event: Cow<'e, NewEvent>) -> Result<Prepared<'e>, Vec<Violation>> {
        let entry = self.state.types.get(&event.event_type).filter(|entry| !entry.versions.is_empty());
        let version = match (entry, event.schema_version) {
            (Some(entry), None) => Some(entry.current()),
            (Some(entry), Some(version)) => Some(entry.version(version).ok_or_else(|| unknown_version(entry))?),
            (None, Some(_)) => {
                return Err(vec![Violation::new(
                    "schema-version-unknown",
                    "/schema_version",
                    "the type has no schema",
                )]);
            }
            (None, None) if self.settings.schema_policy == SchemaPolicy::Open => None,
            (None, None) => {
                return Err(vec![
                    Violation::new("schema-required", "/type", "this category only takes events with a schema")
                        .hint("register a schema for the type first"),
                ]);
            }
        };
        let schema = version.map(|version| (version.version, &*version.compiled));
        prepare::prepare(event, &Rules { settings: &self.settings, stream_shape: self.stream_shape, schema })
    }
}

impl Type {
    fn version(&self, version: u32) -> Option<&Arc<SchemaVersion>> {
        self.versions.get((version as usize).checked_sub(1)?)
    }

    fn find(&self, version: Option<u32>) -> Option<&Arc<SchemaVersion>> {
        version.map_or(self.versions.last(), |version| self.version(version))
    }

    /// What an event without a version gets: the latest that is not deprecated, or else the latest.
    fn current(&self) -> &Arc<SchemaVersion> {
        let current = self.versions.iter().rfind(|version| !version.deprecated).or(self.versions.last());
        current.expect("callers ask types that have a version")
    }
}

impl SchemaVersion {
    /// The roles of `x-data-subjects`, by name as declared, with the place of the person's id (`*` for every element);
    /// `None` for people found by natural key.
    pub fn roles(&self) -> impl Iterator<Item = (&str, Option<&Pointer>)> {
        self.compiled.roles.iter().map(|role| (role.name.as_str(), role.id()))
    }

    fn new(version: u32, compiled: Arc<Compiled>) -> Self {
        let (schema, marks) = (Arc::clone(&compiled.schema), Arc::clone(&compiled.fields));
        Self { version, schema, deprecated: false, marks, compiled }
    }

    /// What is personal at, inside or around a place in the data.
    pub fn marks_touching(&self, path: &[String]) -> Vec<Arc<FieldMark>> {
        let place = path.iter().fold(Pattern::default(), |at, token| at.child(Step::Key(token.clone())));
        let touching = self
            .compiled
            .marks
            .iter()
            .filter(|mark| mark.pattern.overlaps_start_of(&place) || place.overlaps_start_of(&mark.pattern));
        touching.map(|mark| Arc::clone(&mark.field)).collect()
    }
}

fn parse_type(text: &str) -> Result<EventType, Vec<Violation>> {
    EventType::parse_any(text).map_err(|error| vec![Violation::new("invalid-name", "/event_type", error.to_string())])
}

fn contradiction(message: &str) -> Vec<Violation> {
    vec![Violation::new("schema-version-conflict", "/version", message)]
}

fn unknown_version(entry: &Type) -> Vec<Violation> {
    vec![
        Violation::new("schema-version-unknown", "/schema_version", "the type has no such version")
            .hint(format!("the latest is {}", entry.versions.len())),
    ]
}
