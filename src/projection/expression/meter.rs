//! The cost of an evaluation.
//!
//! Owns: the budget, and the rewriting of syntax that makes an expression count what it costs. The interpreter has no
//! limits of its own, cannot be stopped, and copies: `list.map(x, data)` copies `data` for every element, and twenty
//! times `.map(x, x + x)` makes a million times the text. So every value that is read or made is passed through
//! `@charge`, which counts its size, and every range through `@over`, which counts the iterations before they begin.
//! Whatever takes time or memory is proportional to what was counted. `@over` also gives the keys of a map an order.
//! Must not know: events, names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelBytes, CelInt, CelList, CelMap, CelMapKey, CelOptional, CelString};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError, FunctionContext, IdedExpr};
use regex::Regex;

use super::resolve::{internal, is_operator, only_binds};
use super::{errors, names};

/// Units of an evaluation: about a byte of memory each, and about 64 of them a microsecond.
const BUDGET: u64 = 64 << 20;
/// Units of a value, besides its text.
const VALUE: u64 = 48;
/// Units of a node evaluated.
const NODE: u64 = 16;

type Function = Box<
    dyn for<'c, 'v> Fn(&mut FunctionContext<'c, 'v>) -> Result<CowVal<'c, 'v>, ExecutionError> + Send + Sync + 'static,
>;

/// What is left of a budget. One thread evaluates; the atomic only satisfies the interpreter's bounds.
#[derive(Clone)]
struct Meter(Arc<AtomicU64>);

impl Meter {
    fn charge(&self, units: u64) -> Result<(), ExecutionError> {
        match self.0.load(Ordering::Relaxed).checked_sub(units) {
            Some(left) => {
                self.0.store(left, Ordering::Relaxed);
                Ok(())
            }
            None => Err(errors::limit("work")),
        }
    }
}

/// Adds the functions that [`metered`] syntax calls, with a full budget.
pub(super) fn install(context: &mut Context<'_, '_>, patterns: &Arc<[Regex]>) {
    let meter = Meter(Arc::new(AtomicU64::new(BUDGET)));
    let counts = meter.clone();
    let charge: Function = Box::new(move |call| {
        let value = call.args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
        counts.charge(size(value.as_ref()))?;
        Ok(value)
    });
    let counts = meter.clone();
    let over: Function = Box::new(move |call| over(call, &counts));
    add(context, "@charge", charge);
    add(context, "@over", over);
    let addend: Function = Box::new(|call| {
        let term = call.args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
        if term.downcast_ref::<CelMap>().is_some() { Err(wrong_types("_+_", &[term])) } else { Ok(term) }
    });
    add(context, "@addend", addend);
    let counts = meter.clone();
    add(context, "@replace", Box::new(move |call| replace(&call.args, &counts)));
    let counts = meter;
    add(context, "@join", Box::new(move |call| join(&call.args, &counts)));
    if !patterns.is_empty() {
        let patterns = Arc::clone(patterns);
        add(context, "@matches", Box::new(move |call| matches(&call.args, &patterns)));
    }
}

fn add(context: &mut Context<'_, '_>, name: &str, function: Function) {
    let added = context.add_function::<Function, Function>(name, function);
    debug_assert!(added.is_ok(), "no overload begins with @");
}

/// The same expression, counting.
pub(super) fn metered(syntax: IdedExpr) -> IdedExpr {
    value(syntax)
}

fn charged(syntax: IdedExpr) -> IdedExpr {
    internal(syntax.id, "@charge", vec![syntax])
}

/// What a comprehension accumulates, which must keep its shape to be recognised by the interpreter.
fn is_accumulator(syntax: &IdedExpr) -> bool {
    let Expr::Ident(name) = &syntax.expr else { return false };
    name.starts_with(['@', '#']) && names::root_of(name).is_none()
}

fn is_indexing(call: &CallExpr) -> bool {
    matches!(call.func_name.as_str(), operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT)
}

/// An expression whose value is used.
fn value(syntax: IdedExpr) -> IdedExpr {
    let id = syntax.id;
    match syntax.expr {
        Expr::Ident(_) if is_accumulator(&syntax) => syntax,
        Expr::Ident(_) => charged(syntax),
        Expr::Select(ref select) if select.test => operand(syntax),
        Expr::Select(_) => charged(operand(syntax)),
        Expr::Call(ref call) if is_indexing(call) => charged(operand(syntax)),
        Expr::Call(call) => self::call(id, call),
        Expr::List(mut list) => {
            list.elements = list.elements.into_iter().map(value).collect();
            IdedExpr { id, expr: Expr::List(list) }
        }
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = value(std::mem::take(&mut entry.key));
                    entry.value = value(std::mem::take(&mut entry.value));
                }
            }
            IdedExpr { id, expr: Expr::Map(map) }
        }
        Expr::Comprehension(node) => IdedExpr { id, expr: Expr::Comprehension(Box::new(comprehension(id, *node))) },
        expr @ (Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified) => IdedExpr { id, expr },
    }
}

/// An expression of which only a member is used: nothing is copied and nothing counted before the member.
fn operand(syntax: IdedExpr) -> IdedExpr {
    let id = syntax.id;
    match syntax.expr {
        Expr::Ident(_) => syntax,
        Expr::Select(mut select) => {
            *select.operand = operand(std::mem::take(&mut *select.operand));
            IdedExpr { id, expr: Expr::Select(select) }
        }
        Expr::Call(mut call) if is_indexing(&call) => {
            let mut args = call.args.into_iter();
            call.args = args.next().map(operand).into_iter().chain(args.map(value)).collect();
            IdedExpr { id, expr: Expr::Call(call) }
        }
        expr => value(IdedExpr { id, expr }),
    }
}

fn call(id: u64, mut call: CallExpr) -> IdedExpr {
    let appends = call.func_name == operators::ADD && call.args.first().is_some_and(is_accumulator);
    let makes = !appends && (call.func_name == operators::ADD || !is_operator(&call));
    let makes = makes || call.func_name.starts_with("@sortBy");
    // `math` of `math.ceil(x)` is not a value.
    let qualified = call.target.as_ref().is_some_and(|target| {
        matches!(&target.expr, Expr::Ident(space)
            if names::functions(&format!("{space}.{}", call.func_name)).next().is_some())
    });
    if !qualified {
        call.target = call.target.map(|target| Box::new(value(*target)));
    }
    call.args = call.args.into_iter().map(value).collect();
    if call.func_name == operators::ADD && !appends {
        call.args =
            call.args.into_iter().enumerate().map(|(n, term)| if n == 1 { addend(term) } else { term }).collect();
    }
    let syntax = IdedExpr { id, expr: Expr::Call(call) };
    if makes { charged(syntax) } else { syntax }
}

/// The interpreter adds the keys of a map to a list, in any order; the language has no such sum.
fn addend(syntax: IdedExpr) -> IdedExpr {
    internal(syntax.id, "@addend", vec![syntax])
}

fn comprehension(id: u64, mut node: ComprehensionExpr) -> ComprehensionExpr {
    let binds = only_binds(&node);
    node.accu_init = value(node.accu_init);
    node.loop_cond = value(node.loop_cond);
    node.loop_step = value(node.loop_step);
    node.result = value(node.result);
    if !binds {
        let cost = (nodes(&node.loop_cond) + nodes(&node.loop_step)) * NODE;
        let cost = IdedExpr { id, expr: Expr::Literal(LiteralValue::Int((cost as i64).into())) };
        node.iter_range = internal(id, "@over", vec![value(node.iter_range), cost]);
    }
    node
}

/// Nodes that one evaluation visits, iterations within left to their own count.
fn nodes(syntax: &IdedExpr) -> u64 {
    1 + match &syntax.expr {
        Expr::Select(select) => nodes(&select.operand),
        Expr::Call(call) => call.target.iter().map(|target| nodes(target)).sum::<u64>() + all(&call.args),
        Expr::List(list) => all(&list.elements),
        Expr::Map(map) => map.entries.iter().map(|entry| entry_nodes(&entry.expr)).sum(),
        Expr::Comprehension(node) => nodes(&node.iter_range) + nodes(&node.accu_init) + nodes(&node.result),
        _ => 0,
    }
}

fn all(syntax: &[IdedExpr]) -> u64 {
    syntax.iter().map(nodes).sum()
}

fn entry_nodes(entry: &EntryExpr) -> u64 {
    match entry {
        EntryExpr::MapEntry(entry) => nodes(&entry.key) + nodes(&entry.value),
        EntryExpr::StructField(field) => nodes(&field.value),
    }
}

/// Units of a value with all that it holds.
fn size(value: &(dyn Val + '_)) -> u64 {
    VALUE
        + if let Some(text) = value.downcast_ref::<CelString>() {
            text.inner().len() as u64
        } else if let Some(list) = value.downcast_ref::<CelList>() {
            list.inner().iter().map(|element| size(element.as_ref())).sum()
        } else if let Some(map) = value.downcast_ref::<CelMap>() {
            map.inner().iter().map(|(key, value)| key_size(key) + size(value.as_ref())).sum()
        } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
            bytes.inner().len() as u64
        } else if let Some(inner) = value.downcast_ref::<CelOptional>().and_then(CelOptional::option) {
            size(inner)
        } else {
            0
        }
}

fn key_size(key: &CelMapKey<'_>) -> u64 {
    VALUE + if let CelMapKey::String(text) = key { text.inner().len() as u64 } else { 0 }
}

/// `@over(range, cost)`: the range, once all its iterations are paid for.
fn over<'c, 'v>(call: &mut FunctionContext<'c, 'v>, meter: &Meter) -> Result<CowVal<'c, 'v>, ExecutionError> {
    let cost = call.args.pop().and_then(|cost| cost.downcast_ref::<CelInt>().map(|cost| *cost.inner())).unwrap_or(0);
    let range = call.args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    if let Some(list) = range.downcast_ref::<CelList>() {
        meter.charge((list.inner().len() as u64).saturating_mul(cost as u64))?;
    } else if let Some(map) = range.downcast_ref::<CelMap>() {
        meter.charge((map.inner().len() as u64).saturating_mul(cost as u64))?;
        let mut keys: Vec<CelMapKey<'v>> = map.inner().keys().cloned().collect();
        keys.sort_by_cached_key(|key| cel::objects::Key::from(key.clone()));
        let keys: Vec<Box<dyn Val + 'v>> = keys.into_iter().map(key_value).collect();
        return Ok(CowVal::owned(CelList::from(keys)));
    }
    Ok(range)
}

fn key_value<'v>(key: CelMapKey<'v>) -> Box<dyn Val + 'v> {
    match key {
        CelMapKey::Bool(key) => Box::new(key),
        CelMapKey::Int(key) => Box::new(key),
        CelMapKey::UInt(key) => Box::new(key),
        CelMapKey::String(key) => Box::new(key),
    }
}

fn wrong_types<'b, 'v: 'b>(function: &str, args: &[CowVal<'b, 'v>]) -> ExecutionError {
    ExecutionError::no_such_member_overload(function, args.iter().map(|v| v.get_type().name().to_owned()).collect())
}

/// `text.replace(old, new)`, `text.replace(old, new, most)`: as the extension's, but paid for before it is made.
fn replace<'c, 'v>(args: &[CowVal<'c, 'v>], meter: &Meter) -> Result<CowVal<'c, 'v>, ExecutionError> {
    let text = |n: usize| args.get(n).and_then(|arg| arg.downcast_ref::<CelString>()).map(CelString::inner);
    let most = args.get(3).map(|most| most.downcast_ref::<CelInt>().map(|most| *most.inner()));
    let (Some(this), Some(old), Some(new)) = (text(0), text(1), text(2)) else {
        return Err(wrong_types("replace", args));
    };
    let most = match most {
        None => usize::MAX,
        Some(Some(most)) => usize::try_from(most).unwrap_or(usize::MAX),
        Some(None) => return Err(wrong_types("replace", args)),
    };
    let places = this.match_indices(old).take(most).count() as u64;
    meter.charge((this.len() as u64).saturating_add(places.saturating_mul(new.len() as u64)))?;
    let made = if most == usize::MAX { this.replace(old, new) } else { this.replacen(old, new, most) };
    Ok(CowVal::owned(CelString::from(made)))
}

/// `list.join()`, `list.join(separator)`: as the extension's, but paid for before it is made.
fn join<'c, 'v>(args: &[CowVal<'c, 'v>], meter: &Meter) -> Result<CowVal<'c, 'v>, ExecutionError> {
    let Some(list) = args.first().and_then(|list| list.downcast_ref::<CelList>()) else {
        return Err(wrong_types("join", args));
    };
    let separator = match args.get(1) {
        None => "",
        Some(text) => text.downcast_ref::<CelString>().ok_or_else(|| wrong_types("join", args))?.inner(),
    };
    let parts: Option<Vec<&str>> =
        list.inner().iter().map(|part| part.downcast_ref::<CelString>().map(CelString::inner)).collect();
    let parts = parts.ok_or_else(|| wrong_types("join", args))?;
    let total = parts.iter().map(|part| (part.len() + separator.len()) as u64).sum();
    meter.charge(total)?;
    Ok(CowVal::owned(CelString::from(parts.join(separator))))
}

/// `@matches(text, index)`.
fn matches<'c, 'v>(args: &[CowVal<'c, 'v>], patterns: &[Regex]) -> Result<CowVal<'c, 'v>, ExecutionError> {
    let index = args.get(1).and_then(|index| index.downcast_ref::<CelInt>()).map_or(0, |index| *index.inner());
    let pattern = usize::try_from(index).ok().and_then(|index| patterns.get(index));
    match (args.first().and_then(|text| text.downcast_ref::<CelString>()), pattern) {
        (Some(text), Some(pattern)) => {
            Ok(CowVal::owned(cel::common::types::CelBool::from(pattern.is_match(text.inner()))))
        }
        _ => Err(wrong_types("matches", args.get(..1).unwrap_or_default())),
    }
}
