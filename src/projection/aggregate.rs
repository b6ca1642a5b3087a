//! Aggregates: one number or text out of many values.
//!
//! Owns: the state of an aggregate ([`Partial`]), how states are merged, stored and finished, and when an aggregate over
//! people is not shown. Must not know: expressions, rows, keys, windows. What a state is depends only on the values that
//! went in, not on their order or on how they were split, up to the rounding of a sum of fractions. A state may hold a
//! personal value (`min`) or what can be computed from one: it does not print, and errors hold types only.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

use super::definition::AggregateFunction;
use super::scalar::{Number, Scalar};
use super::sketch::{CountOverflow, Distinct, Distribution};
use crate::event::canonical::canonical;

/// The state of one aggregate.
#[derive(Clone, PartialEq)]
pub struct Partial(State);

#[derive(Clone, PartialEq)]
enum State {
    Count(u64),
    Sum(Total),
    Avg(Total),
    Min(Option<Scalar>),
    Max(Option<Scalar>),
    Distinct(Distinct),
    Quantile(Distribution),
}

/// Why a value or a state cannot be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    /// The function has no use for such a value.
    #[error("{function} does not take {found}")]
    WrongType {
        /// Name of the function.
        function: &'static str,
        /// JSON type of the value.
        found: &'static str,
    },
    /// Numbers have no order with text.
    #[error("{function} does not take numbers and text together")]
    MixedTypes {
        /// Name of the function.
        function: &'static str,
    },
    /// A sum or count would not fit.
    #[error("{function} overflows")]
    Overflow {
        /// Name of the function.
        function: &'static str,
    },
    /// States of two functions.
    #[error("the state of {other} is no state of {function}")]
    OtherFunction {
        /// Name of the function.
        function: &'static str,
        /// Name of the other one.
        other: &'static str,
    },
}

/// A stored state that no aggregate of this function writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored state of {function} is damaged")]
pub struct CorruptPartial {
    /// Name of the function.
    pub function: &'static str,
}

/// A person's part that cannot be read (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redacted;

/// An aggregate over people.
#[derive(Clone, PartialEq)]
pub enum GroupResult {
    /// The value of those who can be read, and how many people were left out because they cannot.
    Value(Value, u64),
    /// Fewer people than the group must have put something in: not shown.
    TooFew {
        /// How many people cannot be read.
        redacted_count: u64,
    },
}

impl Partial {
    /// The state when nothing went in.
    pub fn new(function: &AggregateFunction) -> Self {
        Self(match function {
            AggregateFunction::Count => State::Count(0),
            AggregateFunction::Sum => State::Sum(Total::default()),
            AggregateFunction::Avg => State::Avg(Total::default()),
            AggregateFunction::Min => State::Min(None),
            AggregateFunction::Max => State::Max(None),
            AggregateFunction::Distinct => State::Distinct(Distinct::new()),
            AggregateFunction::Quantile(_) => State::Quantile(Distribution::new()),
        })
    }

    /// Takes a value in. An absent one and `null` are skipped. `count` takes the value of its condition and counts `true`;
    /// without a condition give it `true`. `distinct` takes anything, `min` and `max` numbers or text (dates and times
    /// are ordered as instants), the others numbers.
    ///
    /// # Errors
    /// [`AggregateError`]; the state is as it was.
    pub fn add(&mut self, value: Option<&Value>) -> Result<(), AggregateError> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(()) };
        let function = self.name();
        let wrong = AggregateError::WrongType { function, found: type_of(value) };
        let overflow = AggregateError::Overflow { function };
        match &mut self.0 {
            State::Count(count) => {
                if value.as_bool().ok_or(wrong)? {
                    *count = count.checked_add(1).ok_or(overflow)?;
                }
            }
            State::Sum(total) | State::Avg(total) => {
                *total = total.and(&Total::of(Number::of(value).ok_or(wrong)?)).ok_or(overflow)?;
            }
            State::Min(best) => {
                replace(best, Scalar::of(value).ok_or(wrong)?, Ordering::Less, function)?;
            }
            State::Max(best) => {
                replace(best, Scalar::of(value).ok_or(wrong)?, Ordering::Greater, function)?;
            }
            State::Distinct(set) => set.add(&canonical(value)),
            State::Quantile(numbers) => {
                let number = value.as_f64().ok_or(wrong)?;
                numbers.add(number).map_err(|CountOverflow| overflow)?;
            }
        }
        Ok(())
    }

    /// Takes in what went into another state of the same function.
    ///
    /// # Errors
    /// [`AggregateError`]; the state is as it was.
    pub fn merge(&mut self, other: &Self) -> Result<(), AggregateError> {
        let function = self.name();
        let overflow = AggregateError::Overflow { function };
        match (&mut self.0, &other.0) {
            (State::Count(mine), State::Count(theirs)) => *mine = mine.checked_add(*theirs).ok_or(overflow)?,
            (State::Sum(mine), State::Sum(theirs)) | (State::Avg(mine), State::Avg(theirs)) => {
                *mine = mine.and(theirs).ok_or(overflow)?;
            }
            (State::Min(mine), State::Min(Some(theirs))) => {
                replace(mine, theirs.clone(), Ordering::Less, function)?;
            }
            (State::Max(mine), State::Max(Some(theirs))) => {
                replace(mine, theirs.clone(), Ordering::Greater, function)?;
            }
            (State::Min(_), State::Min(None)) | (State::Max(_), State::Max(None)) => {}
            (State::Distinct(mine), State::Distinct(theirs)) => mine.merge(theirs),
            (State::Quantile(mine), State::Quantile(theirs)) => {
                mine.merge(theirs).map_err(|CountOverflow| overflow)?;
            }
            _ => return Err(AggregateError::OtherFunction { function, other: other.name() }),
        }
        Ok(())
    }

    /// Whether nothing went in: no value, and for `count` nothing that counts.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            State::Count(count) => *count == 0,
            State::Sum(total) | State::Avg(total) => total.count == 0,
            State::Min(best) | State::Max(best) => best.is_none(),
            State::Distinct(set) => set.is_empty(),
            State::Quantile(numbers) => numbers.is_empty(),
        }
    }

    /// The result. Nothing gives 0 for `count` and `distinct`, else `null`. A sum of whole numbers is exact while it fits
    /// 64 bits, and the nearest double beyond. `distinct` is exact up to 512 different values, then has a standard error
    /// of 1.2 %; a quantile is off by at most 1 % of its value. The function is that of [`Partial::new`]; only a
    /// quantile's share is taken from it.
    pub fn finish(&self, function: &AggregateFunction) -> Value {
        match (&self.0, function) {
            (State::Count(count), _) => Value::from(*count),
            (State::Distinct(set), _) => Value::from(set.estimate()),
            (State::Sum(total), _) if total.count > 0 => total.sum(),
            (State::Avg(total), _) if total.count > 0 => Value::from(total.float() / total.count as f64),
            (State::Min(Some(best)) | State::Max(Some(best)), _) => best.to_json(),
            (State::Quantile(numbers), AggregateFunction::Quantile(share)) => Value::from(numbers.quantile(*share)),
            _ => Value::Null,
        }
    }

    /// Stored form; its canonical text is the same for the same values. `count`: the number. `sum` and `avg`: `[values,
    /// "sum of the whole numbers", sum of the fractions if there are any]`. `min` and `max`: the value or `null`.
    /// `distinct` and `quantile`: see their sketches.
    pub fn to_json(&self) -> Value {
        match &self.0 {
            State::Count(count) => Value::from(*count),
            State::Sum(total) | State::Avg(total) => total.to_json(),
            State::Min(best) | State::Max(best) => best.as_ref().map_or(Value::Null, Scalar::to_json),
            State::Distinct(set) => Value::from(set.text()),
            State::Quantile(numbers) => numbers.to_json(),
        }
    }

    /// Reads a stored form.
    ///
    /// # Errors
    /// [`CorruptPartial`].
    pub fn from_json(function: &AggregateFunction, value: &Value) -> Result<Self, CorruptPartial> {
        let best = || if value.is_null() { Some(None) } else { Scalar::of(value).map(Some) };
        let state = match function {
            AggregateFunction::Count => value.as_u64().map(State::Count),
            AggregateFunction::Sum => Total::from_json(value).map(State::Sum),
            AggregateFunction::Avg => Total::from_json(value).map(State::Avg),
            AggregateFunction::Min => best().map(State::Min),
            AggregateFunction::Max => best().map(State::Max),
            AggregateFunction::Distinct => value.as_str().and_then(Distinct::parse).map(State::Distinct),
            AggregateFunction::Quantile(_) => Distribution::from_json(value).map(State::Quantile),
        };
        state.map(Self).ok_or(CorruptPartial { function: Self::new(function).name() })
    }

    fn name(&self) -> &'static str {
        match &self.0 {
            State::Count(_) => "count",
            State::Sum(_) => "sum",
            State::Avg(_) => "avg",
            State::Min(_) => "min",
            State::Max(_) => "max",
            State::Distinct(_) => "distinct",
            State::Quantile(_) => "quantile",
        }
    }
}

/// Finishes an aggregate over people from one part per person. Parts that cannot be read are skipped and counted. It is
/// shown only if at least `min_group` people put something in; whoever put nothing in hides nobody, and is not one of
/// them (for `count`: whoever the condition never held for).
///
/// # Errors
/// [`AggregateError`] when the parts do not fit together.
pub fn finish_group(
    function: &AggregateFunction,
    parts: impl Iterator<Item = Result<Partial, Redacted>>,
    min_group: u32,
) -> Result<GroupResult, AggregateError> {
    let mut whole = Partial::new(function);
    let (mut people, mut redacted_count) = (0_u64, 0_u64);
    for part in parts {
        match part {
            Ok(part) => {
                people += u64::from(!part.is_empty());
                whole.merge(&part)?;
            }
            Err(Redacted) => redacted_count += 1,
        }
    }
    if people < u64::from(min_group) {
        return Ok(GroupResult::TooFew { redacted_count });
    }
    Ok(GroupResult::Value(whole.finish(function), redacted_count))
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partial({})", self.name())
    }
}

impl fmt::Debug for GroupResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_, redacted_count) => write!(f, "Value(…, {redacted_count})"),
            Self::TooFew { redacted_count } => write!(f, "TooFew({redacted_count})"),
        }
    }
}

/// A sum: whole numbers apart, so that they stay exact.
#[derive(Clone, Default, PartialEq)]
struct Total {
    count: u64,
    whole: i128,
    /// Sum of those that are not whole; absent without any.
    fractions: Option<f64>,
}

impl Total {
    fn of(number: Number) -> Self {
        match number {
            Number::Whole(whole) => Self { count: 1, whole, fractions: None },
            Number::Fraction(float) => Self { count: 1, whole: 0, fractions: Some(float) },
        }
    }

    fn and(&self, other: &Self) -> Option<Self> {
        let fractions = match (self.fractions, other.fractions) {
            // Turns -0 into 0: both are the same JSON.
            (Some(one), Some(two)) => Some(one + two + 0.0),
            (one, two) => one.or(two),
        };
        Some(Self {
            count: self.count.checked_add(other.count)?,
            whole: self.whole.checked_add(other.whole)?,
            fractions,
        })
        .filter(|total| total.fractions.is_none_or(f64::is_finite))
    }

    /// The sum as a double; finite, for the whole numbers are less than half the last digit of the largest double.
    fn float(&self) -> f64 {
        self.whole as f64 + self.fractions.unwrap_or(0.0)
    }

    fn sum(&self) -> Value {
        if self.fractions.is_some() { Value::from(self.float()) } else { Number::Whole(self.whole).to_json() }
    }

    fn to_json(&self) -> Value {
        let head = [Value::from(self.count), Value::from(self.whole.to_string())];
        Value::Array(head.into_iter().chain(self.fractions.map(Value::from)).collect())
    }

    fn from_json(value: &Value) -> Option<Self> {
        let (count, whole, fractions) = match value.as_array()?.as_slice() {
            [count, whole] => (count, whole, None),
            [count, whole, fractions] => (count, whole, Some(fractions.as_f64()? + 0.0)),
            _ => return None,
        };
        let (count, whole) = (count.as_u64()?, whole.as_str()?);
        let total = Self { count, whole: whole.parse().ok()?, fractions };
        let empty = total.whole == 0 && total.fractions.is_none();
        ((count > 0 || empty) && total.whole.to_string() == whole).then_some(total)
    }
}

/// Puts `new` into the place of `best` if there is none or if it compares so.
fn replace(
    best: &mut Option<Scalar>,
    new: Scalar,
    wanted: Ordering,
    function: &'static str,
) -> Result<(), AggregateError> {
    let better = match best {
        Some(held) => new.compare(held).ok_or(AggregateError::MixedTypes { function })? == wanted,
        None => true,
    };
    if better {
        *best = Some(new);
    }
    Ok(())
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AggregateFunction::{Avg, Count, Max, Min, Quantile, Sum};
    use proptest::prelude::*;
    use serde_json::json;

    const ALL: [AggregateFunction; 7] = [Count, Sum, Min, Max, Avg, AggregateFunction::Distinct, Quantile(0.95)];

    fn of(function: AggregateFunction, values: &[Value]) -> Partial {
        let mut partial = Partial::new(&function);
        for value in values {
            partial.add(Some(value)).unwrap();
        }
        partial
    }

    fn result(function: AggregateFunction, values: &[Value]) -> Value {
        of(function, values).finish(&function)
    }

    /// Through the text that is stored.
    fn stored(function: AggregateFunction, partial: &Partial) -> Partial {
        let value: Value = serde_json::from_str(&canonical(&partial.to_json())).unwrap();
        Partial::from_json(&function, &value).unwrap()
    }

    #[test]
    fn nothing_is_null_or_zero() {
        for function in ALL {
            let mut partial = Partial::new(&function);
            partial.add(None).unwrap();
            partial.add(Some(&Value::Null)).unwrap();
            let zero = matches!(function, Count | AggregateFunction::Distinct);
            assert_eq!(partial.finish(&function), if zero { json!(0) } else { Value::Null });
            assert!(partial.is_empty() && stored(function, &partial) == partial);
        }
        assert!(of(Count, &[json!(false)]).is_empty());
        assert_eq!(result(Count, &[json!(true), json!(false), json!(true)]), json!(2));
    }

    #[test]
    fn sums_of_whole_numbers_are_exact() {
        let wide = [json!(i64::MAX), json!(1), json!(-1), json!(2)];
        assert_eq!(result(Sum, &wide), json!(i64::MAX as u64 + 2));
        assert_eq!(result(Sum, &[json!(u64::MAX), json!(u64::MAX)]), json!(u64::MAX as f64 * 2.0));
        assert_eq!(result(Sum, &[json!(1), json!(2.0)]), json!(3));
        assert_eq!(result(Sum, &[json!(1), json!(0.5)]), json!(1.5));
        assert_eq!(result(Avg, &[json!(1), json!(2)]), json!(1.5));
        let mut huge = of(Sum, &[json!(f64::MAX)]);
        assert_eq!(huge.add(Some(&json!(f64::MAX))), Err(AggregateError::Overflow { function: "sum" }));
        assert_eq!(huge.finish(&Sum), json!(f64::MAX));
    }

    #[test]
    fn stored_forms() {
        assert_eq!(of(Sum, &[json!(7), json!(5)]).to_json(), json!([2, "12"]));
        assert_eq!(of(Avg, &[json!(7), json!(0.5)]).to_json(), json!([2, "7", 0.5]));
        assert_eq!(of(Min, &[json!("b"), json!("a")]).to_json(), json!("a"));
        assert_eq!(of(Count, &[json!(true)]).to_json(), json!(1));
        assert_eq!(of(AggregateFunction::Distinct, &[json!(1)]).to_json(), json!("s6b86b273ff34fce1"));
        assert_eq!(of(Quantile(0.5), &[json!(1), json!(1)]).to_json(), json!([1.0, 1.0, 1023 << 6, 2]));
    }

    #[test]
    fn times_are_ordered_as_instants() {
        let late = json!("2026-11-21T10:00:00-05:00");
        let early = json!("2026-11-21T12:00:00Z");
        let day = json!("2026-11-21");
        let values = [late.clone(), early, day.clone()];
        assert_eq!((result(Max, &values), result(Min, &values)), (late, day));
        assert_eq!(result(Max, &[json!("b"), json!("a"), json!("2026-11-21")]), json!("b"));
        assert_eq!(result(Min, &[json!(2), json!(1.5), json!(i64::MIN), json!(-1e30)]), json!(-1e30));
    }

    #[test]
    fn wrong_values_are_named_by_type_and_change_nothing() {
        for (function, value) in
            [(Count, json!(1)), (Sum, json!("1")), (Avg, json!(true)), (Min, json!([])), (Quantile(0.5), json!({}))]
        {
            let mut partial = Partial::new(&function);
            let error = partial.add(Some(&value)).unwrap_err();
            assert!(matches!(error, AggregateError::WrongType { .. }) && partial == Partial::new(&function));
        }
        let mut text = of(Min, &[json!("secret")]);
        assert_eq!(text.add(Some(&json!(1))), Err(AggregateError::MixedTypes { function: "min" }));
        assert_eq!(text.merge(&of(Min, &[json!(1)])), Err(AggregateError::MixedTypes { function: "min" }));
        let other = Err(AggregateError::OtherFunction { function: "min", other: "max" });
        assert_eq!(text.merge(&Partial::new(&Max)), other);
        assert_eq!(
            (result(Min, &[json!("secret")]), format!("{text:?}")),
            (json!("secret"), "Partial(min)".to_owned())
        );
    }

    #[test]
    fn groups_are_of_people_who_put_something_in() {
        let person = |value: Value| Ok(of(Avg, &[value]));
        let group = |parts: Vec<Result<Partial, Redacted>>| finish_group(&Avg, parts.into_iter(), 2).unwrap();
        let all = group(vec![person(json!(1)), Err(Redacted), person(json!(4)), Err(Redacted)]);
        assert!(all == GroupResult::Value(json!(2.5), 2));
        let silent = group(vec![person(json!(1)), Ok(Partial::new(&Avg)), Err(Redacted)]);
        assert!(silent == GroupResult::TooFew { redacted_count: 1 });
        assert_eq!(format!("{all:?}"), "Value(…, 2)");
        assert!(finish_group(&Count, std::iter::empty(), 0).unwrap() == GroupResult::Value(json!(0), 0));
        let mixed = [Ok(of(Max, &[json!(1)])), Ok(of(Max, &[json!("x")]))];
        assert!(finish_group(&Max, mixed.into_iter(), 1).is_err());
    }

    #[test]
    fn damaged_states_are_refused() {
        let sums = [
            json!([]),
            json!([1]),
            json!([0, "1"]),
            json!([1, "01"]),
            json!([1, "x"]),
            json!([1, 1]),
            json!([1, "1", 2, 3]),
        ];
        assert!(sums.iter().all(|value| Partial::from_json(&Sum, value) == Err(CorruptPartial { function: "sum" })));
        let quantiles = [
            json!([1]),
            json!([1, 1]),
            json!([1, 1, 65472]),
            json!([1, 1, 65472, 0]),
            json!([2, 1, 65472, 1]),
            json!([1, 1, 1, 1]),
            json!([1, 1, 65472, 1, -1, 1]),
            json!([1, 1, 65472, 1, 0, 1]),
            json!([0, 1, 65472, 1]),
            json!([1, 1, i64::MAX, 1]),
            json!([1, 1, i32::MIN, 1]),
            json!([1, 2, 65472, u64::MAX, 64, 1]),
            json!({}),
        ];
        assert!(quantiles.iter().all(|value| Partial::from_json(&Quantile(0.5), value).is_err()));
        assert!(Partial::from_json(&Count, &json!(-1)).is_err() && Partial::from_json(&Max, &json!(true)).is_err());
    }

    fn number() -> impl Strategy<Value = Value> {
        let special = vec![
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(-0.0),
            json!(1e30),
            json!(5.0),
            json!(5e-324),
        ];
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            (-100i32..100).prop_map(Value::from),
            (-1e6..1e6).prop_map(Value::from),
            prop::sample::select(special),
        ]
    }

    /// Values that a function takes.
    fn values(function: AggregateFunction) -> BoxedStrategy<Vec<Value>> {
        let text = prop_oneof!["[a-c]{0,2}", "2026-11-2[0-9]", "2026-11-21T1[0-9]:00:00[+-]0[0-9]:00"];
        let text = prop::collection::vec(text.prop_map(Value::from), 0..40);
        let numbers = || prop::collection::vec(number(), 0..40);
        match function {
            Count => prop::collection::vec(any::<bool>().prop_map(Value::from), 0..40).boxed(),
            Min | Max => prop_oneof![text, numbers()].boxed(),
            AggregateFunction::Distinct => {
                prop_oneof![text, numbers(), Just(vec![json!([1]), json!({"a": 1})])].boxed()
            }
            _ => numbers().boxed(),
        }
    }

    fn any_function_with_values() -> impl Strategy<Value = (AggregateFunction, Vec<Value>)> {
        prop::sample::select(ALL.to_vec()).prop_flat_map(|function| values(function).prop_map(move |v| (function, v)))
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            number(),
            (60_000i64..70_000).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop_oneof!["[sr][0-9a-f#]{0,40}", "-?[0-9]{0,45}", ".{0,8}"].prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Value::from))
    }

    /// The same result, up to the rounding of sums that are added up in another order.
    fn close(function: AggregateFunction, one: &Value, two: &Value, scale: f64) -> bool {
        match (function, one.as_f64(), two.as_f64()) {
            (Sum | Avg, Some(one), Some(two)) => (one - two).abs() <= scale * 1e-12,
            _ => one == two,
        }
    }

    proptest! {
        #[test]
        fn order_splits_and_storage_change_nothing((function, values) in any_function_with_values(), at in 0usize..40, turn: bool) {
            let (one, two) = values.split_at(at.min(values.len()));
            let (one, two) = if turn { (two, one) } else { (one, two) };
            let mut merged = stored(function, &of(function, one));
            merged.merge(&stored(function, &of(function, two))).unwrap();
            let whole = of(function, &values);
            prop_assert!(stored(function, &whole) == whole);
            prop_assert_eq!(whole.to_json(), of(function, &values).to_json());
            let scale = values.iter().filter_map(Value::as_f64).map(f64::abs).sum();
            prop_assert!(close(function, &merged.finish(&function), &whole.finish(&function), scale));
            if !matches!(function, Sum | Avg) {
                prop_assert_eq!(canonical(&merged.to_json()), canonical(&whole.to_json()));
            }
        }

        #[test]
        fn whole_numbers_agree_with_brute_force(numbers in prop::collection::vec(any::<i64>(), 1..50)) {
            let values: Vec<Value> = numbers.iter().copied().map(Value::from).collect();
            let sum: i128 = numbers.iter().copied().map(i128::from).sum();
            prop_assert_eq!(result(Sum, &values), Number::Whole(sum).to_json());
            prop_assert_eq!(result(Avg, &values), json!(sum as f64 / numbers.len() as f64));
            prop_assert_eq!(result(Min, &values), json!(numbers.iter().min()));
            prop_assert_eq!(result(Max, &values), json!(numbers.iter().max()));
            let different: std::collections::BTreeSet<_> = numbers.iter().collect();
            prop_assert_eq!(result(AggregateFunction::Distinct, &values), json!(different.len()));
        }

        #[test]
        fn fractions_agree_with_brute_force(numbers in prop::collection::vec(-1e9..1e9, 1..50)) {
            let values: Vec<Value> = numbers.iter().copied().map(Value::from).collect();
            let (sum, scale): (f64, f64) = (numbers.iter().sum(), numbers.iter().map(|n: &f64| n.abs()).sum());
            prop_assert!(close(Sum, &result(Sum, &values), &json!(sum), scale));
            prop_assert!(close(Avg, &result(Avg, &values), &json!(sum / numbers.len() as f64), scale));
            let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert_eq!(result(Min, &values).as_f64(), Some(least));
        }

        #[test]
        fn no_stored_form_panics(value in json(), other in json(), of in prop::sample::select(ALL.to_vec())) {
            if let Ok(mut partial) = Partial::from_json(&of, &value) {
                prop_assert!(stored(of, &partial) == partial);
                if let Ok(other) = Partial::from_json(&of, &other) {
                    let _ = partial.merge(&other);
                }
                let _ = (partial.finish(&of), partial.add(Some(&json!(true))), partial.add(Some(&json!(1))));
            }
        }

        #[test]
        fn damaged_bytes_do_not_panic((function, values) in any_function_with_values(), at: prop::sample::Index, byte: u8) {
            let mut text = canonical(&of(function, &values).to_json()).into_bytes();
            *at.get_mut(&mut text) = byte;
            if let Ok(value) = serde_json::from_slice::<Value>(&text)
                && let Ok(mut partial) = Partial::from_json(&function, &value)
            {
                let copy = partial.clone();
                let _ = (partial.merge(&copy), partial.finish(&function));
            }
        }
    }
}
