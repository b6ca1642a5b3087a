//! A second opinion on what a projection shows: naive, and written without a look at the engine's code.
//!
//! Owns: every event with its payload in clear, every forget, and a fold of both from the beginning, each time. Must not
//! know: the engine, HTTP. Values stay in clear here for ever; only what is shown of them depends on who was forgotten.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::shape::{Action, Column, Definition, Guard, KeyPart, Number, Rule, Step, Text, Verb, column};

/// A person as long as one pseudonym lasts: number, and how often the person came back.
pub type Person = (usize, usize);
/// A way to read a value: for this purpose, while these people's keys of these generations exist.
type Way = (&'static str, BTreeSet<(Person, usize)>);

/// Whose a value is; nobody's without any way.
pub type Owners = BTreeSet<Way>;

#[derive(Clone, Debug)]
pub struct Cell {
    value: Value,
    owners: Owners,
    /// The placeholder that it brought along, when it is a copy of one field.
    brought: Option<Value>,
}

#[derive(Clone, Debug)]
enum Content {
    One(Cell),
    List(Vec<Cell>),
    Map(BTreeMap<String, Cell>),
}

/// A member of an event.
#[derive(Clone, Debug)]
pub struct Member {
    pub value: Value,
    pub owners: Owners,
    pub placeholder: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub kind: usize,
    pub people: [Person; 2],
    pub k: String,
    pub k2: String,
    pub m: String,
    pub flag: bool,
    pub n: i64,
    /// By field; `None` where it is absent.
    pub members: Vec<Option<Member>>,
}

#[derive(Clone, Debug)]
pub enum Fact {
    Event(Event),
    /// A purpose up to a generation, or everything.
    Forgotten {
        person: Person,
        scope: Option<(&'static str, usize)>,
    },
}

/// Why an event is put aside.
struct Aside;

/// The model gives up: more owners than it keeps count of.
#[derive(Debug)]
pub struct TooWide;

#[derive(Clone, Debug)]
struct Row {
    key: Vec<KeyValue>,
    contents: Vec<Content>,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyValue {
    Text(String),
    Person(Person),
}

fn public(value: Value) -> Cell {
    Cell { value, owners: Owners::new(), brought: None }
}

fn and(one: &Owners, two: &Owners) -> Result<Owners, Aside> {
    if one.is_empty() {
        return Ok(two.clone());
    }
    if two.is_empty() || one == two {
        return Ok(one.clone());
    }
    let mut all = Owners::new();
    for (purpose, people) in one {
        for (_, others) in two.iter().filter(|(other, _)| other == purpose) {
            all.insert((purpose, people | others));
        }
    }
    let covered = |way: &Way| all.iter().any(|(p, who)| *p == way.0 && who != &way.1 && who.is_subset(&way.1));
    let least: Owners = all.iter().filter(|way| !covered(way)).cloned().collect();
    if least.is_empty() { Err(Aside) } else { Ok(least) }
}

/// Whether a way is closed by these facts.
fn closed(way: &Way, forgotten: &[&Fact]) -> bool {
    way.1.iter().any(|(who, generation)| {
        forgotten.iter().any(|fact| match fact {
            Fact::Forgotten { person, scope: None } => person == who,
            Fact::Forgotten { person, scope: Some((purpose, up_to)) } => {
                person == who && *purpose == way.0 && generation <= up_to
            }
            Fact::Event(_) => false,
        })
    })
}

/// The fold of everything so far.
pub struct Fold<'d> {
    definition: &'d Definition,
    rows: BTreeMap<Vec<KeyValue>, Row>,
    pub parked: usize,
}

impl<'d> Fold<'d> {
    pub fn of(definition: &'d Definition, facts: &[Fact]) -> Result<Self, TooWide> {
        let mut fold = Self { definition, rows: BTreeMap::new(), parked: 0 };
        for (at, fact) in facts.iter().enumerate() {
            match fact {
                Fact::Event(event) => fold.event(event)?,
                Fact::Forgotten { person, scope } => {
                    let until: Vec<&Fact> =
                        facts[..=at].iter().filter(|fact| matches!(fact, Fact::Forgotten { .. })).collect();
                    fold.forgotten(*person, scope.is_none(), &until);
                }
            }
        }
        Ok(fold)
    }

    fn forgotten(&mut self, person: Person, wholly: bool, until: &[&Fact]) {
        if !self.definition.delete_row {
            return;
        }
        self.rows.retain(|_, row| {
            let cells: Vec<&Cell> = row.contents.iter().flat_map(cells).collect();
            let hers = |cell: &&&Cell| cell.owners.iter().any(|way| way.1.iter().any(|(who, _)| *who == person));
            let about = cells.iter().any(|cell| hers(&cell)) || row.key.contains(&KeyValue::Person(person));
            let lost = |cell: &&Cell| cell.owners.iter().all(|way| closed(way, until));
            !(wholly && about || cells.iter().filter(hers).any(lost))
        });
    }

    fn event(&mut self, event: &Event) -> Result<(), TooWide> {
        let rules = &self.definition.rules[event.kind];
        let Some(rule) = rules.iter().find(|rule| holds(rule, event)) else { return Ok(()) };
        let mut rows = self.rows.clone();
        for action in &rule.actions {
            let key = self.key(event, action.other);
            if self.act(action, event, key, &mut rows).is_err() {
                self.parked += 1;
                return Ok(());
            }
        }
        let wide =
            |cell: &Cell| cell.owners.len() > 8 || cell.owners.iter().map(|way| way.1.len()).max().unwrap_or(0) > 16;
        if rows.values().flat_map(|row| &row.contents).flat_map(cells).any(wide) {
            return Err(TooWide);
        }
        self.rows = rows;
        Ok(())
    }

    fn key(&self, event: &Event, other: bool) -> Vec<KeyValue> {
        let part = |part: &KeyPart| match part {
            KeyPart::Place => KeyValue::Text(if other { event.k2.clone() } else { event.k.clone() }),
            KeyPart::A => KeyValue::Person(event.people[0]),
            KeyPart::B => KeyValue::Person(event.people[1]),
        };
        self.definition.key.iter().map(part).collect()
    }

    fn act(
        &self,
        action: &Action,
        event: &Event,
        key: Vec<KeyValue>,
        rows: &mut BTreeMap<Vec<KeyValue>, Row>,
    ) -> Result<(), Aside> {
        if action.verb == Verb::Delete {
            rows.remove(&key);
            return Ok(());
        }
        let before = match rows.get(&key) {
            Some(row) => row.clone(),
            None if action.makes() => Row { key: key.clone(), contents: self.fresh() },
            None => return Ok(()),
        };
        let mut row = before.clone();
        for step in &action.steps {
            step_on(step, action.verb, event, &before, &mut row)?;
        }
        self.derive(&mut row)?;
        rows.insert(key, row);
        Ok(())
    }

    fn fresh(&self) -> Vec<Content> {
        let empty = |kind: &Column| match kind {
            Column::Number => Content::One(public(json!(0))),
            Column::List => Content::List(Vec::new()),
            Column::Map => Content::Map(BTreeMap::new()),
            _ => Content::One(public(Value::Null)),
        };
        self.definition.columns.iter().map(empty).collect()
    }

    fn derive(&self, row: &mut Row) -> Result<(), Aside> {
        for (at, kind) in self.definition.columns.iter().enumerate() {
            let (value, owners) = match kind {
                Column::Upper(of) => {
                    let cell = one(row, *of);
                    (cell.value.as_str().map_or(Value::Null, |text| json!(text.to_uppercase())), cell.owners.clone())
                }
                Column::Joined(first, second) => {
                    let (first, second) = (one(row, *first), one(row, *second));
                    (json!(format!("{}|{}", text(first), text(second))), and(&first.owners, &second.owners)?)
                }
                Column::Next(of) => {
                    let cell = one(row, *of);
                    (json!(cell.value.as_i64().expect("a number") + 1), cell.owners.clone())
                }
                _ => continue,
            };
            row.contents[at] = Content::One(Cell { value, owners, brought: None });
        }
        Ok(())
    }

    /// What somebody with these purposes sees: by key, columns and `_redactions`.
    pub fn shown(&self, facts: &[Fact], allowed: &dyn Fn(&str) -> bool) -> BTreeMap<Vec<KeyValue>, (Value, Value)> {
        let forgotten: Vec<&Fact> = facts.iter().filter(|fact| matches!(fact, Fact::Forgotten { .. })).collect();
        let state = |cell: &Cell| {
            let open = |way: &&Way| !closed(way, &forgotten);
            if cell.owners.is_empty() || cell.owners.iter().filter(open).any(|way| allowed(way.0)) {
                None
            } else if cell.owners.iter().any(|way| open(&way)) {
                Some("withheld")
            } else {
                Some("erased")
            }
        };
        let all = self.rows.iter().map(|(key, row)| {
            let (mut values, mut redactions) = (Map::new(), Map::new());
            for (at, content) in row.contents.iter().enumerate() {
                let texts = !matches!(self.definition.columns[at], Column::Number | Column::Map | Column::Next(_));
                let mut show = |path: String, cell: &Cell| {
                    let Some(state) = state(cell) else { return cell.value.clone() };
                    redactions.insert(path, json!(state));
                    let usual = if texts { json!(format!("[{state}]")) } else { Value::Null };
                    cell.brought.clone().unwrap_or(usual)
                };
                let name = column(at);
                let value = match content {
                    Content::One(cell) => show(name.clone(), cell),
                    Content::List(cells) => {
                        cells.iter().enumerate().map(|(at, cell)| show(format!("{name}/{at}"), cell)).collect()
                    }
                    Content::Map(cells) => Value::Object(
                        cells.iter().map(|(key, cell)| (key.clone(), show(format!("{name}/{key}"), cell))).collect(),
                    ),
                };
                values.insert(name, value);
            }
            (key.clone(), (Value::Object(values), Value::Object(redactions)))
        });
        all.collect()
    }
}

/// Whether a member may still be read for some purpose.
pub fn readable(owners: &Owners, facts: &[Fact]) -> bool {
    let forgotten: Vec<&Fact> = facts.iter().filter(|fact| matches!(fact, Fact::Forgotten { .. })).collect();
    owners.is_empty() || owners.iter().any(|way| !closed(way, &forgotten))
}

fn cells(content: &Content) -> Vec<&Cell> {
    match content {
        Content::One(cell) => vec![cell],
        Content::List(cells) => cells.iter().collect(),
        Content::Map(cells) => cells.values().collect(),
    }
}

fn one(row: &Row, at: usize) -> &Cell {
    match &row.contents[at] {
        Content::One(cell) => cell,
        Content::List(_) | Content::Map(_) => panic!("column {at} is not a single value"),
    }
}

fn text(cell: &Cell) -> &str {
    cell.value.as_str().unwrap_or_default()
}

fn holds(rule: &Rule, event: &Event) -> bool {
    match rule.guard {
        Guard::Always => true,
        Guard::Flag => event.flag,
        Guard::AtLeast(least) => event.n >= least,
        Guard::Absent(field) => event.members[field].is_none(),
    }
}

/// A field inside an expression: the empty value where it is absent.
fn inside(event: &Event, field: usize, empty: Value) -> Cell {
    event.members[field].as_ref().map_or(public(empty), |member| Cell {
        value: member.value.clone(),
        owners: member.owners.clone(),
        brought: None,
    })
}

/// A field by itself.
fn copied(event: &Event, field: usize) -> Option<Cell> {
    let member = event.members[field].as_ref()?;
    let brought = member.placeholder.clone();
    Some(Cell { value: member.value.clone(), owners: member.owners.clone(), brought })
}

fn of_text(expression: &Text, event: &Event, row: &Row) -> Result<Option<Cell>, Aside> {
    let field = |at: &usize| inside(event, *at, json!(""));
    let joined = |one: &Cell, two: &Cell| -> Result<Cell, Aside> {
        let value = json!(format!("{}{}", text(one), text(two)));
        Ok(Cell { value, owners: and(&one.owners, &two.owners)?, brought: None })
    };
    Ok(Some(match expression {
        Text::Path(at) => return Ok(copied(event, *at)),
        Text::Join(first, second) => joined(&field(first), &field(second))?,
        Text::Lower(at) => {
            let cell = field(at);
            Cell { value: json!(text(&cell).to_lowercase()), ..cell }
        }
        Text::ByFlag(yes, no) => {
            let (yes, no) = (field(yes), field(no));
            let owners = and(&yes.owners, &no.owners)?;
            Cell { value: if event.flag { yes.value } else { no.value }, owners, brought: None }
        }
        Text::WithRow(column, at) => joined(one(row, *column), &field(at))?,
        Text::Literal => public(json!("fixed")),
    }))
}

fn of_number(expression: &Number, event: &Event, row: &Row) -> Result<Option<Cell>, Aside> {
    Ok(Some(match expression {
        Number::One => public(json!(1)),
        Number::Public => public(json!(event.n)),
        Number::Path(at) => return Ok(copied(event, *at)),
        Number::PlusRow(at, column) => {
            let (field, before) = (inside(event, *at, json!(0)), one(row, *column));
            sum(before, &field, 1, None)?
        }
    }))
}

fn sum(before: &Cell, by: &Cell, sign: i64, floor: Option<i64>) -> Result<Cell, Aside> {
    let whole = |cell: &Cell| cell.value.as_i64().unwrap_or(0);
    let value = whole(before) + sign * whole(by);
    let value = floor.map_or(value, |floor| value.max(floor));
    Ok(Cell { value: json!(value), owners: and(&before.owners, &by.owners)?, brought: None })
}

fn step_on(step: &Step, verb: Verb, event: &Event, before: &Row, row: &mut Row) -> Result<(), Aside> {
    let set = |row: &mut Row, at: usize, cell: Option<Cell>, empty: Value| match cell {
        Some(cell) => row.contents[at] = Content::One(cell),
        None if verb == Verb::Patch => {}
        None => row.contents[at] = Content::One(public(empty)),
    };
    match step {
        Step::Text(at, expression) => set(row, *at, of_text(expression, event, before)?, Value::Null),
        Step::Number(at, expression) => set(row, *at, of_number(expression, event, before)?, json!(0)),
        Step::Add(at, expression) | Step::Subtract(at, expression) => {
            let (sign, floor) = if matches!(step, Step::Add(..)) { (1, None) } else { (-1, Some(0)) };
            if let Some(by) = of_number(expression, event, before)? {
                row.contents[*at] = Content::One(sum(one(row, *at), &by, sign, floor)?);
            }
        }
        Step::Append(at, expression) => {
            let cell = of_text(expression, event, before)?;
            let Content::List(cells) = &mut row.contents[*at] else { panic!("not a list") };
            cells.extend(cell);
        }
        Step::Clear(at) => match &mut row.contents[*at] {
            Content::List(cells) => cells.clear(),
            Content::Map(cells) => cells.clear(),
            Content::One(_) => panic!("not cleared"),
        },
        Step::EntryAdd(at, expression) | Step::EntrySet(at, expression) => {
            let cell = of_number(expression, event, before)?;
            let Content::Map(cells) = &mut row.contents[*at] else { panic!("not a map") };
            match (step, cell) {
                (Step::EntryAdd(..), Some(by)) => {
                    let old = cells.get(&event.m).cloned().unwrap_or_else(|| public(json!(0)));
                    cells.insert(event.m.clone(), sum(&old, &by, 1, None)?);
                }
                (Step::EntryAdd(..), None) => {
                    cells.entry(event.m.clone()).or_insert_with(|| public(json!(0)));
                }
                (_, Some(cell)) => drop(cells.insert(event.m.clone(), cell)),
                (_, None) => {}
            }
        }
        Step::EntryRemove(at) => {
            let Content::Map(cells) = &mut row.contents[*at] else { panic!("not a map") };
            cells.remove(&event.m);
        }
    }
    Ok(())
}
