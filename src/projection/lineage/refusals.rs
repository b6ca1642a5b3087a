//! Where personal data may not go.
//!
//! Owns: the list of those places, and the words for each. Must not know: how lineage is computed. Keeps: whatever is
//! stored in clear, steers which row is touched, or leaves the projection is refused when it is personal.

use std::collections::HashSet;

use super::flow::{Analysis, Flow};
use crate::projection::definition::{
    ColumnSource, ColumnType, Definition, KeyPart, Kind, OnErasure, Operation, Step, pointer, violation,
};
use crate::projection::expression::Expression;
use crate::schema::Violation;

/// Origins named in one message.
const MOST_NAMED: usize = 3;

/// Every place of a definition where personal data would go and may not.
pub(super) fn find(analysis: &Analysis<'_>) -> Vec<Violation> {
    let mut found = Found { analysis, violations: Vec::new(), seen: HashSet::new() };
    match &analysis.definition.kind {
        Kind::Rows { key, window, aggregates, due, .. } => {
            found.key(key, "/key", None);
            if let Some(window) = window {
                found.refuse("/window/by", &analysis.over_all_types(&window.by), &WINDOW);
            }
            for aggregate in aggregates {
                let Some(value) = &aggregate.value else { continue };
                let flow = analysis.over_all_types(value);
                if aggregate.declassify.is_none() {
                    found.refuse(&pointer("/aggregate", &aggregate.name), &flow, &AGGREGATE);
                }
            }
            if let Some(due) = due {
                found.refuse("/due/at", &analysis.columns()[due.at], &DUE_AT);
                for (name, value) in &due.data {
                    found.refuse(&pointer("/due/emit/data", name), &analysis.expression(value, None), &DUE);
                }
            }
        }
        Kind::Fold { invariant, .. } => {
            if let Some(invariant) = invariant {
                found.refuse("/invariant", &analysis.expression(invariant, None), &INVARIANT);
            }
        }
    }
    for (name, rule) in analysis.rules() {
        if let Some(when) = &rule.when {
            found.refuse(&pointer(&rule.pointer, "when"), &analysis.expression(when, Some(name)), &GUARD);
        }
    }
    for (name, action) in analysis.actions() {
        found.key(action.key.as_deref().unwrap_or_default(), &pointer(&action.pointer, "key"), Some(name));
    }
    for (name, step) in analysis.steps() {
        found.step(name, step);
    }
    found.derived(analysis.definition);
    found.accumulated();
    found.kept();
    found.violations
}

struct Place {
    code: &'static str,
    message: &'static str,
    hint: &'static str,
}

const KEY: Place = Place {
    code: "personal-data-in-key",
    message: "a key is stored in clear and shown to everyone; this one would be personal",
    hint: "use the person's pseudonym: `subject.<role>`",
};
const GUARD: Place = Place {
    code: "personal-data-in-guard",
    message: "a guard decides what is stored in clear, and would tell a personal value by it",
    hint: "decide by a public member, or put what is to be decided into the event",
};
const ENTRY: Place = Place {
    code: "personal-data-in-entry",
    message: "the name of an entry would be personal",
    hint: "use a pseudonym (`subject.<role>`) or a public member",
};
const DUE_AT: Place = Place {
    code: "personal-data-in-timer",
    message: "the time of a timer is stored in clear; this one would be personal",
    hint: "compute it from public members only",
};
const DUE: Place = Place {
    code: "personal-data-in-timer",
    message: "what a timer emits is stored in clear; this would be personal",
    hint: "emit the key, and let the reader look the rest up",
};
const INVARIANT: Place = Place {
    code: "personal-data-in-invariant",
    message: "an invariant must hold whether or not a person is forgotten, and cannot read personal data",
    hint: "state it over public members of the state",
};
const WINDOW: Place = Place {
    code: "personal-data-in-window",
    message: "the start of a window is stored in clear; this one would be personal",
    hint: "use a public time, for example `event.time`",
};
const AGGREGATE: Place = Place {
    code: "personal-data-in-aggregate",
    message: "an aggregate over personal values tells about people",
    hint: "say why it may be shown, and of how many people at least: {value: …, declassify: \"why\", min_group: 5}",
};
const REMOVE: Place = Place {
    code: "personal-data-in-remove",
    message: "elements of a list cannot be compared with, or be, personal values: the list is sealed",
    hint: "keep a map by pseudonym instead, and remove its entry",
};
const KEEP: Place = Place {
    code: "personal-data-kept",
    message: "rows with personal columns cannot be kept as they are",
    hint: "use `redact` (the row stays, with placeholders) or `delete_row`",
};

/// Where code decides, somebody can promise.
const PROMISE: &str =
    "code decides about the column: if it is never personal, say so (`public: true`); every value is held to it";

struct Found<'a, 'd> {
    analysis: &'a Analysis<'d>,
    violations: Vec<Violation>,
    seen: HashSet<(&'static str, String)>,
}

impl Found<'_, '_> {
    fn refuse(&mut self, at: &str, flow: &Flow, place: &Place) {
        if flow.is_personal() {
            let hint = if flow.by_code { PROMISE } else { place.hint };
            self.push(place.code, at, format!("{}: {}", place.message, named(flow)), hint);
        }
    }

    fn push(&mut self, code: &'static str, at: &str, message: String, hint: &str) {
        if self.seen.insert((code, at.to_owned())) {
            self.violations.push(Violation { hint: Some(hint.to_owned()), ..violation(code, at, message) });
        }
    }

    fn conflict(&mut self, at: &str, flow: &Flow) {
        if flow.conflict {
            self.no_common_purpose(at, flow);
        }
    }

    fn no_common_purpose(&mut self, at: &str, flow: &Flow) {
        let message = format!("personal values that have no purpose in common would be combined: {}", named(flow));
        self.push(
            "no-common-purpose",
            at,
            message,
            "give them columns of their own, or a common purpose in the schema",
        );
    }

    fn key(&mut self, parts: &[KeyPart], at: &str, event_type: Option<&str>) {
        for part in parts {
            let flow = match event_type {
                Some(_) => self.expression(&part.value, event_type),
                None => self.analysis.over_all_types(&part.value),
            };
            self.refuse(&pointer(at, &part.name), &flow, &KEY);
        }
    }

    fn expression(&self, expression: &Expression, event_type: Option<&str>) -> Flow {
        self.analysis.expression(expression, event_type)
    }

    fn step(&mut self, event_type: &str, step: &Step) {
        let flow = self.expression(&step.value, Some(event_type));
        self.conflict(&step.pointer, &flow);
        if let Some(entry) = &step.entry {
            let flow = self.expression(entry, Some(event_type));
            self.refuse(&step.pointer, &flow, &ENTRY);
        } else if step.operation == Operation::Remove {
            self.refuse(&step.pointer, &flow, &REMOVE);
            if matches!(self.analysis.definition.columns[step.column].kind, ColumnType::List(_)) {
                let column = self.analysis.columns()[step.column].clone();
                self.refuse(&step.pointer, &column, &REMOVE);
            }
        }
    }

    fn derived(&mut self, definition: &Definition) {
        let base = if matches!(definition.kind, Kind::Fold { .. }) { "/state" } else { "/columns" };
        for column in &definition.columns {
            if let ColumnSource::Derived(expression) = &column.source {
                let flow = self.expression(expression, None);
                self.conflict(&pointer(&pointer(base, &column.name), "derive"), &flow);
            }
        }
    }

    /// A number that is counted up or down is made of its old value and the new one.
    fn accumulated(&mut self) {
        let counts = |step: &Step| matches!(step.operation, Operation::Increment | Operation::Decrement { .. });
        let flows: Vec<(&Step, Flow)> =
            self.analysis.steps().map(|(name, step)| (step, self.expression(&step.value, Some(name)))).collect();
        for (step, flow) in flows.iter().filter(|(step, flow)| counts(step) && flow.is_personal()) {
            let same = flows.iter().filter(|(other, _)| other.column == step.column);
            if let Some((_, other)) = same.into_iter().find(|(_, other)| flow.excludes(other)) {
                let mut both = flow.clone();
                both.origins.extend(other.origins.iter().cloned());
                self.no_common_purpose(&step.pointer, &both);
            }
        }
    }

    fn kept(&mut self) {
        if !matches!(self.analysis.definition.on_erasure, OnErasure::Keep(_)) {
            return;
        }
        let mut all = Flow::default();
        for flow in self.analysis.columns() {
            all.origins.extend(flow.origins.iter().cloned());
            all.by_code |= flow.by_code;
        }
        self.refuse("/on_erasure/keep", &all, &KEEP);
    }
}

/// The places of a flow, in words. Names come from schemas, never from events.
fn named(flow: &Flow) -> String {
    let names = flow.origins.iter().take(MOST_NAMED).map(|origin| format!("{} {}", origin.event_type, origin.pointer));
    if flow.by_code {
        return "code decides what is in it".to_owned();
    }
    let mut text = names.collect::<Vec<_>>().join(", ");
    if flow.origins.len() > MOST_NAMED {
        text.push_str(", …");
    }
    text
}
