//! From a text to an expression.
//!
//! Owns: the order of the checks and the thread that compiles. The parser recurses deeper than a thread of the runtime
//! has room for, so it runs on one with a large stack, and only what [`guard`](super::guard) lets through. Must not
//! know: events.

use std::sync::Arc;

use cel::common::ast::SourceInfo;
use cel::{Context, IdedExpr, ParseErrors};
use serde_json::Value;

use super::convert::{self, Needs};
use super::{CompileError, Compiled, Expression, Program, Scope, functions, guard, meter, reads, resolve};

/// Stack of the compiling thread. Address space; only what is touched becomes memory.
const STACK: usize = 64 << 20;

/// Compiles.
pub(super) fn compile(source: &str, scope: Scope) -> Result<Expression, CompileError> {
    guard::check(source)?;
    let text = source.to_owned();
    let thread = std::thread::Builder::new()
        .name("expression".to_owned())
        .stack_size(STACK)
        .spawn(move || build(text, scope))
        .map_err(|_| failure("there is no thread to compile an expression on"))?;
    thread.join().unwrap_or_else(|_| Err(failure("the expression cannot be compiled")))
}

fn failure(message: &str) -> CompileError {
    CompileError { column: 1, message: message.to_owned() }
}

fn build(source: String, scope: Scope) -> Result<Expression, CompileError> {
    let (syntax, places) = parse(&source)?;
    let resolved = resolve::resolve(syntax, scope, &places)?;
    let syntax = resolved.syntax;
    let paths = reads::paths(&syntax);
    let path = reads::plain_path(&syntax).map(|path| (path.reference(), path));
    let literal = constant(&syntax);
    let equalities = if scope.bare { equalities(&syntax) } else { Vec::new() };
    let mut references: Vec<_> = paths.iter().map(reads::Path::reference).collect();
    references.sort();
    references.dedup();
    let program = Program {
        needs: Needs::of(&paths),
        syntax: meter::metered(syntax),
        patterns: resolved.patterns.into(),
        dynamic: resolved.dynamic,
    };
    Ok(Expression(Box::new(Compiled { source, reads: references, path, literal, equalities, program })))
}

/// Parses. The tree of the parser itself is freed here, on the large stack.
fn parse(source: &str) -> Result<(IdedExpr, SourceInfo), CompileError> {
    functions::environment().parser().parse_with_source_info(source).map_err(|errors| syntax_error(source, errors))
}

/// The first error of the parser.
fn syntax_error(source: &str, errors: ParseErrors) -> CompileError {
    let Some(error) = errors.errors.into_iter().next() else { return failure("this is not an expression") };
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1) - 1;
    let before: usize = source.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    let column = (before + usize::try_from(error.pos.1).unwrap_or(1).max(1)).min(source.chars().count() + 1);
    let text = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    // The list of what could have stood there is longer than it helps.
    let text = text.split(" expecting {").next().unwrap_or(text);
    CompileError { column, message: text.chars().take(200).collect() }
}

/// The value of an expression made of literals, as the interpreter has it.
fn constant(syntax: &IdedExpr) -> Option<Value> {
    if !reads::is_constant(syntax) {
        return None;
    }
    let context = Context::with_env(functions::environment());
    convert::result(&context.resolve(syntax).ok()?).ok()
}

fn equalities(syntax: &IdedExpr) -> Vec<(String, Value)> {
    let constants = reads::equalities(syntax).into_iter();
    constants.filter_map(|(column, literal)| Some((column, constant(literal)?))).collect()
}

/// Expressions are shared between threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Expression>();
    shared::<Arc<Expression>>();
};
