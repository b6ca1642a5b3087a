//! Cases.
//!
//! Owns: the strategies. Keeps: what is generated is mostly accepted: guards and keys are public, each action changes a
//! column once. What the server refuses all the same (values without a common purpose) is skipped by the test.

use proptest::prelude::*;

use super::shape::{Action, Case, Column, Definition, Field, Guard, Happening, KeyPart, Kind, Mark, Number, Rule};
use super::shape::{Step, Text, Verb};

pub const PEOPLE: usize = 4;

/// Columns of every definition before the derived ones.
const COLUMNS: [Column; 6] = [Column::Text, Column::Text, Column::Number, Column::Number, Column::List, Column::Map];

fn purposes(mixed: bool) -> BoxedStrategy<Vec<&'static str>> {
    if mixed {
        let sets = vec![vec!["billing", "marketing"], vec!["billing"], vec!["billing", "marketing"], vec!["marketing"]];
        prop::sample::select(sets).boxed()
    } else {
        Just(vec!["general"]).boxed()
    }
}

fn field(at: usize, mixed: bool) -> impl Strategy<Value = Field> {
    let roles = prop::sample::select(vec![vec![0], vec![0], vec![1], vec![0, 1]]);
    let placeholder = prop::option::weighted(0.3, prop::sample::select(vec!["gone", "nobody"]));
    let mark = (roles, any::<bool>(), purposes(mixed), placeholder);
    // The first two are there always, so that every expression finds a text and a number.
    let text = if at < 2 { Just(at == 0).boxed() } else { any::<bool>().boxed() };
    (prop::option::weighted(0.75, mark), text, any::<bool>()).prop_map(move |(mark, text, required)| {
        let mark = mark.map(|(roles, joint, purposes, placeholder)| {
            // Numbers that either of two people keeps alive would multiply their owners when they are added up.
            let joint = joint || !text || roles.len() == 1;
            Mark { roles, joint, purposes, placeholder }
        });
        Field { name: format!("{}{at}", if text { "s" } else { "i" }), text, required, mark }
    })
}

fn kind(mixed: bool) -> impl Strategy<Value = Kind> {
    (2..7_usize)
        .prop_flat_map(move |count| (0..count).map(|at| field(at, mixed)).collect::<Vec<_>>())
        .prop_map(|fields| Kind { fields })
}

/// Numbers that choose; shrinks to the first of everything.
type Dice = Vec<u8>;

struct Chooser(std::vec::IntoIter<u8>);

impl Chooser {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % limit
    }

    fn of(&mut self, fields: &[usize]) -> usize {
        fields[self.below(fields.len())]
    }

    fn text(&mut self, kind: &Kind) -> Text {
        let of = texts(kind);
        match self.below(8) {
            0..=2 => Text::Path(self.of(&of)),
            3 => Text::Join(self.of(&of), self.of(&of)),
            4 => Text::Lower(self.of(&of)),
            5 => Text::ByFlag(self.of(&of), self.of(&of)),
            6 => Text::WithRow(self.below(2), self.of(&of)),
            _ => Text::Literal,
        }
    }

    fn number(&mut self, kind: &Kind) -> Number {
        let of: Vec<usize> = (0..kind.fields.len()).filter(|at| !kind.fields[*at].text).collect();
        match self.below(6) {
            0..=1 => Number::Path(self.of(&of)),
            2 => Number::PlusRow(self.of(&of), 2 + self.below(2)),
            3 => Number::Public,
            _ => Number::One,
        }
    }

    fn step(&mut self, column: usize, kind: &Kind) -> Step {
        match &COLUMNS[column] {
            Column::Text => Step::Text(column, self.text(kind)),
            Column::Number => match self.below(4) {
                0 => Step::Number(column, self.number(kind)),
                1 => Step::Subtract(column, self.number(kind)),
                _ => Step::Add(column, self.number(kind)),
            },
            Column::List if self.below(5) == 4 => Step::Clear(column),
            Column::List => Step::Append(column, self.text(kind)),
            _ => match self.below(8) {
                0..=3 => Step::EntryAdd(column, self.number(kind)),
                4..=5 => Step::EntrySet(column, self.number(kind)),
                6 => Step::EntryRemove(column),
                _ => Step::Clear(column),
            },
        }
    }

    fn action(&mut self, kind: &Kind, other: bool) -> Action {
        let verbs = [Verb::Upsert, Verb::Set, Verb::Update, Verb::Patch, Verb::Upsert, Verb::Set, Verb::Delete];
        let verb = verbs[self.below(verbs.len())];
        let first = self.below(COLUMNS.len());
        let count = if verb == Verb::Delete { 0 } else { 1 + self.below(4) };
        let steps = (first..first + count).map(|at| self.step(at % COLUMNS.len(), kind)).collect();
        Action { verb, other, steps }
    }

    fn rules(&mut self, kind: &Kind, places: bool) -> Vec<Rule> {
        let optional: Vec<usize> =
            (0..kind.fields.len()).filter(|at| kind.fields[*at].mark.is_none() && !kind.fields[*at].required).collect();
        let mut guards = match self.below(5) {
            0 => vec![Guard::Flag, Guard::Always],
            1 => vec![Guard::AtLeast(3)],
            2 if !optional.is_empty() => vec![Guard::Absent(self.of(&optional)), Guard::Flag],
            _ => vec![Guard::Always],
        };
        let rule = |guard| {
            let mut actions = vec![self.action(kind, false)];
            if places && self.below(4) == 3 {
                actions.push(self.action(kind, true));
            }
            Rule { guard, actions }
        };
        guards.drain(..).map(rule).collect()
    }
}

fn texts(kind: &Kind) -> Vec<usize> {
    (0..kind.fields.len()).filter(|at| kind.fields[*at].text).collect()
}

fn definition(kinds: Vec<Kind>) -> impl Strategy<Value = Definition> {
    let keys = vec![
        vec![KeyPart::Place],
        vec![KeyPart::A],
        vec![KeyPart::Place, KeyPart::A],
        vec![KeyPart::B],
        vec![KeyPart::Place, KeyPart::B],
    ];
    let derived = prop::sample::subsequence(vec![Column::Upper(0), Column::Joined(0, 1), Column::Next(2)], 0..=3);
    let dice: BoxedStrategy<Dice> = prop::collection::vec(any::<u8>(), 120).boxed();
    let index = prop::option::of(0..3_usize);
    (prop::sample::select(keys), derived, dice, prop::bool::weighted(0.4), index).prop_map(
        move |(key, derived, dice, delete_row, index)| {
            let mut chooser = Chooser(dice.into_iter());
            let places = key.contains(&KeyPart::Place);
            let rules = kinds.iter().map(|kind| chooser.rules(kind, places)).collect();
            let columns = COLUMNS.into_iter().chain(derived).collect();
            Definition { key, columns, rules, delete_row, index }
        },
    )
}

fn happening(kinds: usize) -> impl Strategy<Value = Happening> {
    let present = prop::collection::vec(prop::bool::weighted(0.7), 6);
    let public = (0..3_usize, 0..3_usize, 0..2_usize, any::<bool>(), 0..6_i64);
    let append =
        (0..kinds, 0..PEOPLE, 0..PEOPLE, public, present).prop_map(|(kind, a, b, (k, k2, m, flag, n), present)| {
            Happening::Append { kind, a, b, k, k2, m, flag, n, present }
        });
    let scope = prop::sample::select(vec![None, None, Some("general"), Some("billing"), Some("marketing")]);
    let forget = (0..PEOPLE, scope).prop_map(|(person, purpose)| Happening::Forget { person, purpose });
    prop_oneof![
        24 => append,
        4 => forget,
        2 => (0..PEOPLE).prop_map(|person| Happening::Return { person }),
        1 => Just(Happening::Rebuild),
        1 => Just(Happening::Redefine),
        2 => Just(Happening::Look),
    ]
}

pub fn case() -> impl Strategy<Value = Case> {
    any::<bool>()
        .prop_flat_map(|mixed| prop::collection::vec(kind(mixed), 1..4))
        .prop_flat_map(|kinds| {
            let history = prop::collection::vec(happening(kinds.len()), 5..41);
            let definitions = (definition(kinds.clone()), definition(kinds.clone()));
            (Just(kinds), definitions, history, any::<prop::sample::Index>())
        })
        .prop_map(|(kinds, (first, second), history, at)| {
            // Early, at once, or anywhere.
            let define_at = at.index(history.len() * 2).saturating_sub(history.len());
            Case { kinds, first, second, history, define_at }
        })
}
