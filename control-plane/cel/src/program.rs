//! An expression that may be evaluated.

use std::fmt;

use crate::{
    Bindings, Budget, CALL_COST_MAX, Declarations, Fault, Type, Value,
    ast::Node,
    check::{self, Checked},
    eval, lower,
};

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(String);

impl Wrong {
    pub(crate) fn new(why: impl Into<String>) -> Wrong {
        Wrong(why.into())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "compilation failed: {}", self.0)
    }
}

/// An expression that may be evaluated.
#[derive(Clone, Debug)]
pub struct Program {
    node: Node,
    checked: Checked,
}

impl Program {
    /// Reads an expression and checks that it uses only what is declared, as it is declared.
    pub fn compile(text: &str, declared: &Declarations) -> Result<Program, Wrong> {
        let node = lower::read(text)?;
        let checked = check::check(text, &node, declared)?;
        Ok(Program { node, checked })
    }

    /// The same for an expression whose value must be of a type.
    pub fn of_type(text: &str, declared: &Declarations, wanted: &[Type]) -> Result<Program, Wrong> {
        let program = Program::compile(text, declared)?;
        let found = program.type_();
        if wanted.iter().any(|wanted| crate::types::Meanings::default().fits(wanted, found)) {
            return Ok(program);
        }
        let names: Vec<String> = wanted.iter().map(Type::to_string).collect();
        Err(Wrong::new(format!("must evaluate to {}", names.join(" or "))))
    }

    pub fn type_(&self) -> &Type {
        &self.checked.type_
    }

    /// What an evaluation costs at most, as far as sizes are known.
    pub fn cost(&self) -> u64 {
        self.checked.cost
    }

    /// One call of one expression: it may not cost more than a call may, whatever is left in the budget.
    pub fn evaluate_once(&self, bindings: &dyn Bindings, budget: &mut Budget) -> Result<Value, Fault> {
        let mut own = Budget::new(CALL_COST_MAX.min(budget.left()));
        let value = self.evaluate(bindings, &mut own);
        let spent = CALL_COST_MAX.min(budget.left()) - own.left();
        budget.spend(spent)?;
        value
    }

    /// Whether the expression uses a name.
    pub fn uses(&self, name: &str) -> bool {
        self.node.uses(name)
    }

    pub fn evaluate(&self, bindings: &dyn Bindings, budget: &mut Budget) -> Result<Value, Fault> {
        eval::evaluate(&self.node, bindings, budget)
    }
}
