//! What is generated: event types, definitions, histories.
//!
//! Owns: the plain values that both the real server and the model are given, and how they are written down for the server.
//! Must not know: what any of it does.

use serde_json::{Map, Value, json};

/// In every personal text, with a number that nothing else has.
pub const CANARY: &str = "Quixotella";
/// Roles of every event type.
pub const ROLES: [&str; 2] = ["a", "b"];

/// A personal or optional member of an event.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub text: bool,
    pub required: bool,
    pub mark: Option<Mark>,
}

/// How a field is marked.
#[derive(Clone, Debug)]
pub struct Mark {
    pub roles: Vec<usize>,
    pub joint: bool,
    pub purposes: Vec<&'static str>,
    pub placeholder: Option<&'static str>,
}

/// An event type. Besides its fields it has the public members `a_id b_id k k2 m flag n`.
#[derive(Clone, Debug)]
pub struct Kind {
    pub fields: Vec<Field>,
}

impl Kind {
    pub fn schema(&self) -> Value {
        let text = json!({"type": "string"});
        let mut properties = Map::new();
        for name in ["a_id", "b_id", "k", "k2", "m"] {
            properties.insert(name.into(), text.clone());
        }
        properties.insert("flag".into(), json!({"type": "boolean"}));
        properties.insert("n".into(), json!({"type": "integer"}));
        let mut required: Vec<String> = properties.keys().cloned().collect();
        for field in &self.fields {
            let mut schema = json!({"type": if field.text { json!("string") } else { json!(["integer", "null"]) }});
            if let Some(mark) = &field.mark {
                let names: Vec<&str> = mark.roles.iter().map(|role| ROLES[*role]).collect();
                let mut keyword = match names.as_slice() {
                    [one] => json!({"subject": one}),
                    several => json!({"subjects": several}),
                };
                if names.len() > 1 && !mark.joint {
                    keyword["erase_when"] = json!("all");
                }
                if mark.purposes != ["general"] {
                    keyword["purposes"] = json!(mark.purposes);
                }
                if let Some(placeholder) = mark.placeholder.filter(|_| field.text) {
                    keyword["placeholder"] = json!(placeholder);
                }
                schema["x-personal-data"] = keyword;
            }
            if field.required {
                required.push(field.name.clone());
            }
            properties.insert(field.name.clone(), schema);
        }
        json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required,
            "x-data-subjects": {"a": {"id": "/a_id"}, "b": {"id": "/b_id"}}})
    }
}

/// An expression that gives text. Fields by index into the event type, columns by index into the definition.
#[derive(Clone, Debug)]
pub enum Text {
    Path(usize),
    Join(usize, usize),
    Lower(usize),
    ByFlag(usize, usize),
    WithRow(usize, usize),
    Literal,
}

/// An expression that gives a whole number.
#[derive(Clone, Debug)]
pub enum Number {
    One,
    Public,
    Path(usize),
    PlusRow(usize, usize),
}

/// What an action does to one column.
#[derive(Clone, Debug)]
pub enum Step {
    Text(usize, Text),
    Number(usize, Number),
    Append(usize, Text),
    Clear(usize),
    Add(usize, Number),
    Subtract(usize, Number),
    EntryAdd(usize, Number),
    EntrySet(usize, Number),
    EntryRemove(usize),
}

impl Step {
    pub fn column(&self) -> usize {
        match self {
            Self::Text(column, _)
            | Self::Number(column, _)
            | Self::Append(column, _)
            | Self::Clear(column)
            | Self::Add(column, _)
            | Self::Subtract(column, _)
            | Self::EntryAdd(column, _)
            | Self::EntrySet(column, _)
            | Self::EntryRemove(column) => *column,
        }
    }

    /// Whether it stands under the verb that sets.
    pub fn sets(&self) -> bool {
        matches!(self, Self::Text(..) | Self::Number(..) | Self::Clear(_) | Self::EntrySet(..))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Upsert,
    Set,
    Update,
    Patch,
    Delete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Set => "set",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Action {
    pub verb: Verb,
    /// Whether it is about the row of `k2` instead of `k`.
    pub other: bool,
    pub steps: Vec<Step>,
}

impl Action {
    /// Whether a row that does not exist is made.
    pub fn makes(&self) -> bool {
        let removes = self.steps.iter().any(|step| matches!(step, Step::EntryRemove(_)));
        let updates = matches!(self.verb, Verb::Update | Verb::Patch) && self.steps.iter().any(Step::sets);
        !removes && !updates && self.verb != Verb::Delete
    }
}

/// A guard: over public members only.
#[derive(Clone, Copy, Debug)]
pub enum Guard {
    Always,
    Flag,
    AtLeast(i64),
    Absent(usize),
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub guard: Guard,
    pub actions: Vec<Action>,
}

/// How a column is computed.
#[derive(Clone, Debug)]
pub enum Column {
    Text,
    Number,
    List,
    Map,
    Upper(usize),
    Joined(usize, usize),
    Next(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Place,
    A,
    B,
}

#[derive(Clone, Debug)]
pub struct Definition {
    pub key: Vec<KeyPart>,
    pub columns: Vec<Column>,
    /// Rules per event type.
    pub rules: Vec<Vec<Rule>>,
    pub delete_row: bool,
    pub index: Option<usize>,
}

pub fn column(at: usize) -> String {
    format!("c{at}")
}

impl Definition {
    /// As the server takes it.
    pub fn text(&self, name: &str, types: &[String], kinds: &[Kind], version: usize) -> Value {
        let columns: Map<String, Value> =
            self.columns.iter().enumerate().map(|(at, kind)| (column(at), declared(kind))).collect();
        let handle: Map<String, Value> = types
            .iter()
            .zip(kinds)
            .zip(&self.rules)
            .filter(|(_, rules)| !rules.is_empty())
            .map(|((name, kind), rules)| (name.clone(), rules.iter().map(|rule| self.rule(rule, kind)).collect()))
            .collect();
        let mut text = json!({"projection": name, "version": version, "from": {"types": types}, "key": self.parts(false),
            "columns": columns, "handle": handle, "on_error": "park"});
        if self.delete_row {
            text["on_erasure"] = json!("delete_row");
        }
        if let Some(at) = self.index {
            text["indexes"] = json!([[column(at)]]);
        }
        text
    }

    fn parts(&self, other: bool) -> Value {
        let part = |part: &KeyPart| match part {
            KeyPart::Place if other => ("place".to_owned(), json!("data.k2")),
            KeyPart::Place => ("place".to_owned(), json!("data.k")),
            KeyPart::A => ("first".to_owned(), json!("subject.a")),
            KeyPart::B => ("second".to_owned(), json!("subject.b")),
        };
        Value::Object(self.key.iter().map(part).collect())
    }

    fn rule(&self, rule: &Rule, kind: &Kind) -> Value {
        let actions: Vec<Value> = rule.actions.iter().map(|action| self.action(action, kind)).collect();
        let mut text = match actions.as_slice() {
            [one] => one.clone(),
            several => json!({"all": several}),
        };
        match rule.guard {
            Guard::Always => {}
            Guard::Flag => text["when"] = json!("data.flag"),
            Guard::AtLeast(least) => text["when"] = json!(format!("data.n >= {least}")),
            Guard::Absent(field) => text["when"] = json!(format!("!has(data.{})", kind.fields[field].name)),
        }
        text
    }

    fn action(&self, action: &Action, kind: &Kind) -> Value {
        let mut verbs: Map<String, Value> = Map::new();
        if action.other {
            verbs.insert("key".into(), self.parts(true));
        }
        if action.verb == Verb::Delete {
            verbs.insert("delete".into(), json!(true));
            return Value::Object(verbs);
        }
        for step in &action.steps {
            let name = column(step.column());
            let entry = format!("{name}[data.m]");
            let (verb, target, value) = match step {
                Step::Text(_, text) => (action.verb.name(), name, expression(text, kind)),
                Step::Number(_, number) => (action.verb.name(), name, amount(number, kind)),
                Step::Append(_, text) => ("append", name, expression(text, kind)),
                Step::Clear(at) if matches!(self.columns[*at], Column::List) => (action.verb.name(), name, json!([])),
                Step::Clear(_) => (action.verb.name(), name, json!({})),
                Step::Add(_, number) => ("increment", name, amount(number, kind)),
                Step::Subtract(_, number) => ("decrement", name, amount(number, kind)),
                Step::EntryAdd(_, number) => ("increment", entry, amount(number, kind)),
                Step::EntrySet(_, number) => (action.verb.name(), entry, amount(number, kind)),
                Step::EntryRemove(_) => ("remove", entry, json!(true)),
            };
            if verb == "decrement" {
                verbs.insert("floor".into(), json!(0));
            }
            verbs.entry(verb).or_insert_with(|| json!({}))[target] = value;
        }
        Value::Object(verbs)
    }
}

fn declared(kind: &Column) -> Value {
    match kind {
        Column::Text => json!({"type": "string", "sortable": true}),
        Column::Number => json!({"type": "int", "default": 0}),
        Column::List => json!("list<string>"),
        Column::Map => json!("map<string,int>"),
        Column::Upper(of) => json!({"type": "string", "derive": format!("upper(row.c{of})")}),
        Column::Joined(one, two) => {
            json!({"type": "string", "derive": format!("coalesce(row.c{one}, '') + '|' + coalesce(row.c{two}, '')")})
        }
        Column::Next(of) => json!({"type": "int", "derive": format!("row.c{of} + 1")}),
    }
}

fn expression(text: &Text, kind: &Kind) -> Value {
    let name = |at: &usize| &kind.fields[*at].name;
    let or_empty = |at: &usize| format!("coalesce(data.?{}, '')", name(at));
    json!(match text {
        Text::Path(at) => format!("data.{}", name(at)),
        Text::Join(one, two) => format!("{} + {}", or_empty(one), or_empty(two)),
        Text::Lower(at) => format!("lower({})", or_empty(at)),
        Text::ByFlag(yes, no) => format!("data.flag ? {} : {}", or_empty(yes), or_empty(no)),
        Text::WithRow(column, at) => format!("coalesce(row.c{column}, '') + {}", or_empty(at)),
        Text::Literal => "'fixed'".to_owned(),
    })
}

fn amount(number: &Number, kind: &Kind) -> Value {
    match number {
        Number::One => json!(1),
        Number::Public => json!("data.n"),
        Number::Path(at) => json!(format!("data.{}", kind.fields[*at].name)),
        Number::PlusRow(at, column) => json!(format!("coalesce(data.?{}, 0) + row.c{column}", kind.fields[*at].name)),
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Happening {
    Append { kind: usize, a: usize, b: usize, k: usize, k2: usize, m: usize, flag: bool, n: i64, present: Vec<bool> },
    Forget { person: usize, purpose: Option<&'static str> },
    Return { person: usize },
    Rebuild,
    Redefine,
    Look,
}

/// Everything of one case.
#[derive(Clone, Debug)]
pub struct Case {
    pub kinds: Vec<Kind>,
    pub first: Definition,
    pub second: Definition,
    pub history: Vec<Happening>,
    /// After how many happenings the projection is defined.
    pub define_at: usize,
}
