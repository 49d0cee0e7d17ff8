//! From the parser's tree to our own: macros as what they mean, and members, functions and types told apart.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};

use crate::{
    Value, Wrong,
    ast::{Call, Element, Entry, Field, Fold, FoldKind, How, IfPresent, Kind, Node, Select},
    declarations,
    parse::{self, marked},
};

pub fn read(text: &str) -> Result<Node, Wrong> {
    let (tree, info) = parse::parse(text)?;
    Lowering { text, info }.node(&tree)
}

struct Lowering<'a> {
    text: &'a str,
    info: SourceInfo,
}

impl Lowering<'_> {
    fn place(&self, tree: &IdedExpr) -> (usize, usize) {
        let offset = self.info.offset_for(tree.id).map_or(0, |(start, _)| start as usize);
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn wrong(&self, tree: &IdedExpr, why: &str) -> Wrong {
        let (line, column) = self.place(tree);
        Wrong::new(marked(self.text, line, column, &format!("Syntax error: {why}")))
    }

    fn node(&self, tree: &IdedExpr) -> Result<Node, Wrong> {
        let kind = match &tree.expr {
            Expr::Unspecified => return Err(self.wrong(tree, "an expression is missing")),
            Expr::Literal(literal) => Kind::Literal(literal_value(literal)),
            Expr::Ident(name) => Kind::Name(name.clone()),
            Expr::Select(_) if type_name(tree).is_some() => {
                Kind::Literal(Value::Type(type_name(tree).unwrap_or_default().into()))
            }
            Expr::Select(select) => Kind::Select(Box::new(Select {
                of: self.node(&select.operand)?,
                field: select.field.clone(),
                how: if select.test { How::Test } else { How::Get },
            })),
            Expr::List(list) => Kind::List(
                list.elements
                    .iter()
                    .enumerate()
                    .map(|(at, element)| {
                        Ok(Element { value: self.node(element)?, is_optional: list.optional_indices.contains(&at) })
                    })
                    .collect::<Result<_, Wrong>>()?,
            ),
            Expr::Map(map) => Kind::Map(
                map.entries
                    .iter()
                    .map(|entry| match &entry.expr {
                        EntryExpr::MapEntry(entry) => Ok(Entry {
                            key: self.node(&entry.key)?,
                            value: self.node(&entry.value)?,
                            is_optional: entry.optional,
                        }),
                        EntryExpr::StructField(_) => Err(self.wrong(tree, "a map has keys and no fields")),
                    })
                    .collect::<Result<_, Wrong>>()?,
            ),
            Expr::Struct(structure) => Kind::Structure {
                name: structure.type_name.clone(),
                fields: structure
                    .entries
                    .iter()
                    .map(|entry| match &entry.expr {
                        EntryExpr::StructField(field) => Ok(Field {
                            name: field.field.clone(),
                            value: self.node(&field.value)?,
                            is_optional: field.optional,
                        }),
                        EntryExpr::MapEntry(_) => Err(self.wrong(tree, "an object has fields and no keys")),
                    })
                    .collect::<Result<_, Wrong>>()?,
            },
            Expr::Call(call) => self.call(tree, &call.func_name, call.target.as_deref(), &call.args)?,
            Expr::Comprehension(_) => self.fold(tree)?,
        };
        Ok(Node { kind, at: self.place(tree) })
    }

    fn call(&self, tree: &IdedExpr, name: &str, target: Option<&IdedExpr>, args: &[IdedExpr]) -> Result<Kind, Wrong> {
        if let Some(target) = target
            && let Some(kind) = self.macro_of(name, target, args)?
        {
            return Ok(kind);
        }
        // `math.greatest(…)`, `optional.none()`: a name with a dot, and no member.
        if let Some(Expr::Ident(prefix)) = target.map(|target| &target.expr) {
            let name = format!("{prefix}.{name}");
            if !declarations::named(&name).is_empty() {
                let args = args.iter().map(|arg| self.node(arg)).collect::<Result<_, _>>()?;
                return Ok(Kind::Call(Call { name, is_member: false, args }));
            }
        }
        let mut all = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            all.push(self.node(arg)?);
        }
        let mut take = all.into_iter();
        let mut next = || take.next().ok_or_else(|| self.wrong(tree, "an argument is missing"));
        Ok(match name {
            "_&&_" => Kind::And(Box::new((next()?, next()?))),
            "_||_" => Kind::Or(Box::new((next()?, next()?))),
            "_?_:_" => Kind::Choice(Box::new((next()?, next()?, next()?))),
            "_?._" => {
                let of = next()?;
                let field = match next()?.kind {
                    Kind::Literal(Value::String(field)) => field.to_string(),
                    _ => return Err(self.wrong(tree, "a field must have a name")),
                };
                Kind::Select(Box::new(Select { of, field, how: How::Try }))
            }
            _ => Kind::Call(Call { name: name.to_owned(), is_member: target.is_some(), args: take.collect() }),
        })
    }

    /// Macros that the parser does not know: those with two names, and those of optional values.
    fn macro_of(&self, name: &str, target: &IdedExpr, args: &[IdedExpr]) -> Result<Option<Kind>, Wrong> {
        if let ("optMap" | "optFlatMap", [variable, body]) = (name, args) {
            let of = self.node(target)?;
            let (name, body, is_flat) = (self.variable(variable)?, self.node(body)?, name == "optFlatMap");
            return Ok(Some(Kind::IfPresent(Box::new(IfPresent { of, name, body, is_flat }))));
        }
        if let ("sortBy", [variable, body]) = (name, args) {
            let (name, body, range) = (self.variable(variable)?, self.node(body)?, self.node(target)?);
            let fold = Fold { kind: FoldKind::Sorted, range, name, second: None, filter: None, body };
            return Ok(Some(Kind::Fold(Box::new(fold))));
        }
        let kind = match (name, args.len()) {
            ("all", 3) => FoldKind::All,
            ("exists", 3) => FoldKind::Exists,
            ("existsOne" | "exists_one", 3) => FoldKind::ExistsOne,
            ("transformList", 3 | 4) => FoldKind::List,
            ("transformMap", 3 | 4) => FoldKind::Values,
            ("transformMapEntry", 3 | 4) => FoldKind::Entries,
            _ => return Ok(None),
        };
        let (first, second) = (self.variable(&args[0])?, self.variable(&args[1])?);
        let filter = if args.len() == 4 { Some(self.node(&args[2])?) } else { None };
        let body = self.node(&args[args.len() - 1])?;
        let range = self.node(target)?;
        Ok(Some(Kind::Fold(Box::new(Fold { kind, range, name: first, second: Some(second), filter, body }))))
    }

    fn variable(&self, tree: &IdedExpr) -> Result<String, Wrong> {
        match &tree.expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => Err(self.wrong(tree, "argument must be a simple name")),
        }
    }

    /// The parser has made a loop of a macro; what it begins with and how it steps says which it was.
    fn fold(&self, tree: &IdedExpr) -> Result<Kind, Wrong> {
        let unknown = || self.wrong(tree, "this macro is not known");
        let Expr::Comprehension(fold) = &tree.expr else { return Err(unknown()) };
        fn called(expr: &Expr, name: &str) -> Option<Vec<IdedExpr>> {
            match expr {
                Expr::Call(call) if call.func_name == name => Some(call.args.clone()),
                _ => None,
            }
        }
        let step = &fold.loop_step.expr;
        let choice = called(step, "_?_:_");
        let (kind, filter, body) = match &fold.accu_init.expr {
            Expr::Literal(LiteralValue::Boolean(start)) => {
                let (kind, operator) =
                    if *start.inner() { (FoldKind::All, "_&&_") } else { (FoldKind::Exists, "_||_") };
                (kind, None, called(step, operator).and_then(|args| args.into_iter().nth(1)))
            }
            Expr::Literal(LiteralValue::Int(_)) => {
                (FoldKind::ExistsOne, None, choice.and_then(|args| args.into_iter().next()))
            }
            Expr::List(_) => {
                let (filter, add) = match choice {
                    Some(args) => {
                        let mut args = args.into_iter();
                        (args.next(), args.next())
                    }
                    None => (None, Some(fold.loop_step.clone())),
                };
                let added = add.and_then(|add| called(&add.expr, "_+_")).and_then(|args| args.into_iter().nth(1));
                let body = added.and_then(|added| match added.expr {
                    Expr::List(list) => list.elements.into_iter().next(),
                    _ => None,
                });
                (FoldKind::List, filter, body)
            }
            _ => return Err(unknown()),
        };
        let filter = filter.map(|filter| self.node(&filter)).transpose()?;
        let body = self.node(&body.ok_or_else(unknown)?)?;
        let range = self.node(&fold.iter_range)?;
        let (name, second) = (fold.iter_var.clone(), fold.iter_var2.clone());
        Ok(Kind::Fold(Box::new(Fold { kind, range, name, second, filter, body })))
    }
}

/// Types whose names have dots.
const TYPES: &[&str] = &[
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.URL",
    "net.CIDR",
    "net.IP",
];

fn type_name(tree: &IdedExpr) -> Option<&'static str> {
    fn spells(tree: &IdedExpr, name: &str) -> bool {
        match (&tree.expr, name.rsplit_once('.')) {
            (Expr::Ident(own), None) => own == name,
            (Expr::Select(select), Some((of, field))) => {
                !select.test && select.field == field && spells(&select.operand, of)
            }
            _ => false,
        }
    }
    TYPES.iter().find(|name| spells(tree, name)).copied()
}

fn literal_value(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::from(value.inner()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}
