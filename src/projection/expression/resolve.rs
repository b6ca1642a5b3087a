//! Names of a parsed expression: what each stands for.
//!
//! Owns: which names are roots, columns, variables of iterations and functions, and the limits on the syntax. After it a
//! root is called by a name that no source can spell (`@data`), so that whatever is not so called reads nothing. Must
//! not know: values.

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr,
    SelectExpr, SourceInfo, operators,
};
use regex::{Regex, RegexBuilder};

use super::names::{self, Style};
use super::{CompileError, Root, Scope};

/// Levels of syntax, so that evaluation fits on any thread's stack. `a + b + c` has three.
pub const MOST_DEPTH: usize = 40;
/// Nodes of syntax.
pub const MOST_NODES: usize = 500;
/// Iterations within iterations.
const MOST_LOOPS: usize = 2;
/// Memory of a compiled pattern.
const PATTERN_BYTES: usize = 256 << 10;

/// A resolved expression.
pub(super) struct Resolved {
    pub(super) syntax: IdedExpr,
    pub(super) patterns: Vec<Regex>,
    /// Whether a member's name may come from a value.
    pub(super) dynamic: bool,
}

/// Resolves the names of a parsed expression.
pub(super) fn resolve(syntax: IdedExpr, scope: Scope, places: &SourceInfo) -> Result<Resolved, CompileError> {
    let mut resolver =
        Resolver { scope, places, locals: Vec::new(), nodes: 0, loops: 0, patterns: Vec::new(), dynamic: false };
    let syntax = resolver.expression(syntax, 1)?;
    Ok(Resolved { syntax, patterns: resolver.patterns, dynamic: resolver.dynamic })
}

/// Whether a comprehension only binds a name: `optMap` and `sortBy` are made of such.
pub(super) fn only_binds(comprehension: &ComprehensionExpr) -> bool {
    comprehension.iter_var == "#unused"
        && matches!(&comprehension.iter_range.expr, Expr::List(list) if list.elements.is_empty())
}

/// A call of one of our own functions that a source cannot spell.
pub(super) fn internal(id: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

/// Whether a call is of an operator, or of what a macro expands to.
pub(super) fn is_operator(call: &CallExpr) -> bool {
    const OPERATORS: &[&str] = &[
        operators::CONDITIONAL,
        operators::LOGICAL_AND,
        operators::LOGICAL_OR,
        operators::LOGICAL_NOT,
        operators::SUBSTRACT,
        operators::ADD,
        operators::MULTIPLY,
        operators::DIVIDE,
        operators::MODULO,
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::GREATER_EQUALS,
        operators::LESS_EQUALS,
        operators::GREATER,
        operators::LESS,
        operators::NEGATE,
        operators::INDEX,
        operators::OPT_INDEX,
        operators::OPT_SELECT,
        operators::NOT_STRICTLY_FALSE,
        operators::IN,
        "math.@max",
        "math.@min",
        "@sortByAssociatedKeys",
    ];
    OPERATORS.contains(&call.func_name.as_str())
}

struct Resolver<'a> {
    scope: Scope,
    places: &'a SourceInfo,
    locals: Vec<String>,
    nodes: usize,
    loops: usize,
    patterns: Vec<Regex>,
    dynamic: bool,
}

impl Resolver<'_> {
    fn refuse(&self, id: u64, message: impl Into<String>) -> CompileError {
        // Places are in bytes.
        let before = self.places.offset_for(id).and_then(|(start, _)| self.places.source.get(..start as usize));
        let column = before.map_or(1, |before| before.chars().count() + 1);
        CompileError { column, message: message.into() }
    }

    fn expression(&mut self, node: IdedExpr, depth: usize) -> Result<IdedExpr, CompileError> {
        self.nodes += 1;
        if depth > MOST_DEPTH {
            return Err(self.refuse(node.id, format!("an expression nests at most {MOST_DEPTH} levels")));
        }
        if self.nodes > MOST_NODES {
            return Err(self.refuse(node.id, format!("an expression has at most {MOST_NODES} parts")));
        }
        let id = node.id;
        let expr = match node.expr {
            Expr::Ident(name) => self.name(id, name)?,
            Expr::Literal(literal) => Expr::Literal(literal),
            Expr::Select(select) => Expr::Select(SelectExpr {
                operand: Box::new(self.expression(*select.operand, depth + 1)?),
                field: select.field,
                test: select.test,
            }),
            Expr::Call(call) => self.call(id, call, depth)?,
            Expr::List(list) => {
                let elements = self.all(list.elements, depth)?;
                Expr::List(ListExpr { elements, optional_indices: list.optional_indices })
            }
            Expr::Map(map) => self.map(id, map, depth)?,
            Expr::Comprehension(comprehension) => self.comprehension(id, *comprehension, depth)?,
            Expr::Struct(_) => return Err(self.refuse(id, "messages cannot be made; write a map")),
            Expr::Unspecified => return Err(self.refuse(id, "this cannot be read")),
        };
        Ok(IdedExpr { id, expr })
    }

    fn all(&mut self, nodes: Vec<IdedExpr>, depth: usize) -> Result<Vec<IdedExpr>, CompileError> {
        nodes.into_iter().map(|node| self.expression(node, depth + 1)).collect()
    }

    fn map(&mut self, id: u64, map: MapExpr, depth: usize) -> Result<Expr, CompileError> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for entry in map.entries {
            let EntryExpr::MapEntry(inner) = entry.expr else {
                return Err(self.refuse(id, "messages cannot be made; write a map"));
            };
            let key = self.expression(inner.key, depth + 1)?;
            let value = self.expression(inner.value, depth + 1)?;
            let inner = MapEntryExpr { key, value, optional: inner.optional };
            entries.push(IdedEntryExpr { id: entry.id, expr: EntryExpr::MapEntry(inner) });
        }
        Ok(Expr::Map(MapExpr { entries }))
    }

    /// A name on its own: a variable of an iteration, a root, a column or a type.
    fn name(&self, id: u64, name: String) -> Result<Expr, CompileError> {
        if self.locals.contains(&name) {
            return Ok(Expr::Ident(name));
        }
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.refuse(id, "a name begins with a letter"));
        }
        if let Some(root) = self.scope.roots.iter().find(|root| names::called(**root, self.scope) == name) {
            return Ok(Expr::Ident(names::variable(*root).to_owned()));
        }
        if self.scope.bare {
            let row = IdedExpr { id, expr: Expr::Ident(names::variable(Root::Row).to_owned()) };
            return Ok(Expr::Select(SelectExpr { operand: Box::new(row), field: name, test: false }));
        }
        if names::TYPES.contains(&name.as_str()) {
            return Ok(Expr::Ident(name));
        }
        Err(self.refuse(id, self.unknown(&name)))
    }

    fn unknown(&self, name: &str) -> String {
        let has_row = self.scope.roots.contains(&Root::Row);
        if name == "row" && has_row && self.scope.fold {
            return "the row of a fold is called `state`".to_owned();
        }
        if name == "state" && has_row {
            return "`state` is for folds; the row is called `row`".to_owned();
        }
        let here: Vec<&str> = self.scope.roots.iter().map(|root| names::called(*root, self.scope)).collect();
        let list = here.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if names::ROOTS.contains(&name) {
            return format!("`{name}` cannot be used here; there is {list}");
        }
        if names::functions(name).next().is_some() || names::MACROS.contains(&name) {
            return format!("`{name}` is a function");
        }
        let known = here.into_iter().chain(self.locals.iter().map(String::as_str)).chain(names::TYPES.iter().copied());
        let close = names::suggestion(name, known);
        let name = short(name);
        if close.is_empty() {
            format!("unknown name `{name}`; there is {list}")
        } else {
            format!("unknown name `{name}`{close}")
        }
    }

    fn call(&mut self, id: u64, call: CallExpr, depth: usize) -> Result<Expr, CompileError> {
        if is_operator(&call) {
            return self.operator(call, depth);
        }
        // As the interpreter decides: `math.ceil(x)` is a function by its name alone.
        if let Some(Expr::Ident(space)) = call.target.as_ref().map(|target| &target.expr) {
            let full = format!("{space}.{}", call.func_name);
            if names::functions(&full).next().is_some() {
                self.check_function(id, &full, Style::Global, call.args.len())?;
                let args = self.all(call.args, depth)?;
                return Ok(Expr::Call(CallExpr { func_name: call.func_name, target: call.target, args }));
            }
            let shadowed = self.scope.bare || self.locals.contains(space);
            if names::NAMESPACES.contains(&space.as_str()) && !shadowed {
                return Err(self.refuse(id, unknown_function(&full, Style::Global)));
            }
        }
        let style = if call.target.is_some() { Style::Member } else { Style::Global };
        self.check_function(id, &call.func_name, style, call.args.len())?;
        if call.func_name == "matches" {
            return self.pattern(id, call, depth);
        }
        let target = call.target.map(|target| self.expression(*target, depth + 1)).transpose()?;
        let mut args = self.all(call.args, depth)?;
        match (call.func_name.as_str(), target) {
            // The interpreter's own would make results of any size before they could be counted.
            ("replace" | "join", Some(target)) => {
                args.insert(0, target);
                Ok(internal(id, &format!("@{}", call.func_name), args).expr)
            }
            (_, target) => Ok(Expr::Call(CallExpr { func_name: call.func_name, target: target.map(Box::new), args })),
        }
    }

    fn operator(&mut self, call: CallExpr, depth: usize) -> Result<Expr, CompileError> {
        if matches!(call.func_name.as_str(), operators::INDEX | operators::OPT_INDEX) {
            self.dynamic |= !matches!(call.args.get(1).map(|index| &index.expr), Some(Expr::Literal(_)));
        }
        let target = call.target.map(|target| self.expression(*target, depth + 1)).transpose()?;
        let args = self.all(call.args, depth)?;
        Ok(Expr::Call(CallExpr { func_name: call.func_name, target: target.map(Box::new), args }))
    }

    /// `text.matches('pattern')`: compiled once, and the pattern's index in its place.
    fn pattern(&mut self, id: u64, mut call: CallExpr, depth: usize) -> Result<Expr, CompileError> {
        let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(pattern)), .. }) = call.args.pop() else {
            return Err(self.refuse(id, "`matches` takes a literal text as its pattern"));
        };
        let Some(text) = call.target.map(|target| *target).or_else(|| call.args.pop()) else {
            return Err(self.refuse(id, "`matches` takes a text and a pattern"));
        };
        let text = self.expression(text, depth + 1)?;
        let regex = RegexBuilder::new(pattern.inner())
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .nest_limit(50)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => self.refuse(id, "the pattern of `matches` is too large"),
                _ => self.refuse(id, "the pattern of `matches` is not a regular expression"),
            })?;
        let index = Expr::Literal(LiteralValue::Int((self.patterns.len() as i64).into()));
        self.patterns.push(regex);
        Ok(internal(id, "@matches", vec![text, IdedExpr { id, expr: index }]).expr)
    }

    fn check_function(&self, id: u64, name: &str, style: Style, args: usize) -> Result<(), CompileError> {
        let Some((_, least, most)) = names::functions(name).find(|function| function.0 == style) else {
            return Err(self.refuse(id, unknown_function(name, style)));
        };
        if (least..=most).contains(&args) {
            return Ok(());
        }
        let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
        Err(self.refuse(id, format!("`{name}` takes {wanted} arguments, not {args}")))
    }

    fn comprehension(&mut self, id: u64, node: ComprehensionExpr, depth: usize) -> Result<Expr, CompileError> {
        for name in [Some(&node.iter_var), node.iter_var2.as_ref(), Some(&node.accu_var)].into_iter().flatten() {
            self.check_variable(id, name)?;
        }
        let binds = only_binds(&node);
        let iter_range = self.expression(node.iter_range, depth + 1)?;
        let accu_init = self.expression(node.accu_init, depth + 1)?;
        let (outer, loops) = (self.locals.len(), self.loops);
        self.loops += usize::from(!binds);
        if self.loops > MOST_LOOPS {
            return Err(self.refuse(id, format!("iterations nest at most {MOST_LOOPS} deep")));
        }
        self.locals.extend([node.iter_var.clone(), node.accu_var.clone()]);
        self.locals.extend(node.iter_var2.clone());
        let loop_cond = self.expression(node.loop_cond, depth + 1)?;
        let loop_step = self.expression(node.loop_step, depth + 1)?;
        let result = self.expression(node.result, depth + 1)?;
        self.locals.truncate(outer);
        self.loops = loops;
        Ok(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range,
            iter_var: node.iter_var,
            iter_var2: node.iter_var2,
            accu_var: node.accu_var,
            accu_init,
            loop_cond,
            loop_step,
            result,
        })))
    }

    /// The variable of an iteration. One called like a root would mislead whoever reads the expression.
    fn check_variable(&self, id: u64, name: &str) -> Result<(), CompileError> {
        if names::ROOTS.contains(&name) {
            return Err(self.refuse(id, format!("`{name}` cannot be the name of a variable")));
        }
        let made = matches!(name, "@result" | "@target" | "@__sortBy_input__" | "#unused");
        if !made && !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.refuse(id, "a name begins with a letter"));
        }
        Ok(())
    }
}

/// A name, cut to what a message can hold.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

/// What to say of a function that is not there, or not in this style.
fn unknown_function(name: &str, style: Style) -> String {
    match names::functions(name).next() {
        Some((Style::Global, ..)) => return format!("`{name}` is called as `{name}(…)`"),
        Some((Style::Member, ..)) => return format!("`{name}` is called as `x.{name}(…)`"),
        None => {}
    }
    if names::MACROS.contains(&name) {
        return format!("`{name}` does not take such arguments");
    }
    let known = names::FUNCTIONS.iter().filter(|function| function.1 == style).map(|function| function.0);
    let close = names::suggestion(name, known.chain(names::MACROS.iter().copied()));
    format!("unknown function `{}`{close}", short(name))
}
