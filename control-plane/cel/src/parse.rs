//! From the text to the tree that the parser makes, within bounds.

use cel::{
    common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo},
    parser::{ParseError, Parser},
};

use crate::Wrong;

/// How long an expression may be. The longest in known policies have some thousand letters.
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;

/// How many operators, fields, indexes and brackets there may be. They can make a tree that is as deep, down which the
/// parser goes on the stack, with up to thirty kilobytes a step.
const STEPS_MAX: usize = 1000;

/// The stack of the thread that parses: enough for all steps. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// How deep expressions may nest. Everything after the parser walks down the tree on the stack.
const DEPTH_MAX: usize = 200;

/// The tree, and where its parts stand in the text.
pub fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), Wrong> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(Wrong::new(format!(
            "the expression has {} bytes, and may have {EXPRESSION_BYTES_MAX}",
            text.len()
        )));
    }
    if steps(text) > STEPS_MAX {
        return Err(Wrong::new(format!("the expression has more than {STEPS_MAX} operators, fields and brackets")));
    }
    let (tree, info) = parsed(text).map_err(|errors| {
        let said: Vec<String> = errors
            .iter()
            .map(|error| marked(text, error.pos.0.max(1) as usize, error.pos.1.max(1) as usize, &syntax(&error.msg)))
            .collect();
        Wrong::new(if said.is_empty() { "the parser gave up".to_owned() } else { said.join("\n") })
    })?;
    if is_deeper_than(&tree, DEPTH_MAX) {
        return Err(Wrong::new(format!("the expression nests deeper than {DEPTH_MAX}")));
    }
    Ok((tree, info))
}

/// Parses on a stack of its own.
fn parsed(text: &str) -> Result<(IdedExpr, SourceInfo), Vec<ParseError>> {
    let parse = || {
        let parser = Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true);
        parser.parse_with_source_info(text).map_err(|errors| errors.errors)
    };
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(threads, parse);
        thread.map_or_else(|_| Err(Vec::new()), |thread| thread.join().unwrap_or_else(|_| Err(Vec::new())))
    })
}

/// At least how many operators, fields, indexes and brackets there are. What only looks like one, in a text or a comment,
/// counts.
fn steps(text: &str) -> usize {
    let mut count = 0;
    let mut before = ' ';
    for letter in text.chars() {
        let joins_before = "=&|".contains(letter) && "=<>!&|".contains(before);
        count += usize::from(".([{+-*/%=<>!&|?".contains(letter) && !joins_before);
        before = letter;
    }
    count
}

fn syntax(message: &str) -> String {
    if message.starts_with("Syntax error") { message.to_owned() } else { format!("Syntax error: {message}") }
}

/// A message about a place in the text, with that line and a mark.
pub fn marked(text: &str, line: usize, column: usize, message: &str) -> String {
    let shown = text.lines().nth(line - 1).unwrap_or_default();
    let dots = ".".repeat(column.saturating_sub(1));
    format!("ERROR: <input>:{line}:{column}: {message}\n | {shown}\n | {dots}^")
}

/// Looks at the tree without recursion.
fn is_deeper_than(tree: &IdedExpr, depth_max: usize) -> bool {
    let mut open = vec![(tree, 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > depth_max {
            return true;
        }
        let mut down = |child| open.push((child, depth + 1));
        match &node.expr {
            Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).for_each(&mut down),
            Expr::Comprehension(fold) => {
                [&fold.iter_range, &fold.accu_init, &fold.loop_cond, &fold.loop_step, &fold.result]
                    .into_iter()
                    .for_each(&mut down);
            }
            Expr::List(list) => list.elements.iter().for_each(&mut down),
            Expr::Map(map) => map.entries.iter().flat_map(|entry| parts(&entry.expr)).for_each(&mut down),
            Expr::Struct(structure) => {
                structure.entries.iter().flat_map(|entry| parts(&entry.expr)).for_each(&mut down);
            }
            Expr::Select(select) => down(&select.operand),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }
    false
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}
