//! What expressions about writes may say, and what their names stand for.

use copepod_api::{Status, StatusResult, field::Errors};
use copepod_cel::{Budget, Declarations, Fault, Program, Type, Variables};
use serde_json::Value;

use super::{attempt::Attempt, authorizer};
use crate::{
    Row,
    pipeline::World,
    rules::{Part, each, list_at, text_at},
};

/// What all conditions of one webhook or policy may cost for one write.
const CONDITIONS_COST_MAX: u64 = 2_500_000;

/// The names of an expression about a write: `object`, `oldObject`, `request`, `authorizer`.
pub fn declared() -> Declarations {
    let texts = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Type::String)).collect::<Vec<_>>();
    let kind = Type::object("kubernetes.GroupVersionKind", texts(&["group", "version", "kind"]));
    let resource = Type::object("kubernetes.GroupVersionResource", texts(&["group", "version", "resource"]));
    let mut user = texts(&["username", "uid"]);
    user.push(("groups".to_owned(), Type::list(Type::String)));
    user.push(("extra".to_owned(), Type::map(Type::String, Type::list(Type::String))));
    let mut request = texts(&["name", "namespace", "operation", "subResource", "requestSubResource"]);
    request.push(("kind".to_owned(), kind.clone()));
    request.push(("requestKind".to_owned(), kind));
    request.push(("resource".to_owned(), resource.clone()));
    request.push(("requestResource".to_owned(), resource));
    request.push(("userInfo".to_owned(), Type::object("kubernetes.UserInfo", user)));
    request.push(("dryRun".to_owned(), Type::Bool));
    request.push(("options".to_owned(), Type::Dyn));
    authorizer::declare(Declarations::default())
        .with("object", Type::Dyn)
        .with("oldObject", Type::Dyn)
        .with("request", Type::object("kubernetes.AdmissionRequest", request))
}

/// The values of these names.
pub fn variables<'a>(
    world: &World<'_>,
    attempt: &Attempt<'a>,
    row: &'a Row,
    object: &Value,
) -> StatusResult<Variables> {
    let mut head = attempt.head(row, object);
    for field in ["name", "namespace", "subResource", "requestSubResource"] {
        crate::json::default(&mut head, field, "");
    }
    let (seen, old) = (attempt.seen_by(world, row, object)?, attempt.old_seen_by(world, row)?);
    let (authorizer, own) = authorizer::values(&world.view, attempt, attempt.name(object));
    Ok(Variables::default()
        .with("authorizer", authorizer)
        .with("authorizer.requestResource", own)
        .with("object", (&seen).into())
        .with("oldObject", (&old).into())
        .with("request", (&head).into()))
}

/// An expression that was compiled; or that cannot be, because it was stored under other rules.
pub type Compiled = Result<Program, String>;

pub fn compiled(text: &str, declared: &Declarations, wanted: &[Type]) -> Compiled {
    Program::of_type(text, declared, wanted).map_err(|wrong| wrong.to_string())
}

/// `matchConditions`: all must hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<(String, Compiled)>);

impl Conditions {
    pub fn of(value: &Value, declared: &Declarations) -> Conditions {
        let read = |condition: &Value| {
            let program = compiled(text_at(condition, "expression"), declared, &[Type::Bool]);
            (text_at(condition, "name").to_owned(), program)
        };
        Conditions(list_at(value, "matchConditions").iter().map(read).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not decides, even where another has no value.
    pub fn hold(&self, variables: &Variables) -> Result<bool, String> {
        let mut budget = Budget::new(CONDITIONS_COST_MAX);
        let mut fault = None;
        for (name, program) in &self.0 {
            let value = match program {
                Ok(program) => program.evaluate(variables, &mut budget).map_err(|fault| fault.to_string()),
                Err(why) => Err(why.clone()),
            };
            match value {
                Ok(copepod_cel::Value::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(why) => fault = fault.or(Some(format!("matchCondition {name:?}: {why}"))),
            }
        }
        fault.map_or(Ok(true), Err)
    }

    /// Whether all hold; without a value, the write is refused or nobody is asked, as the policy says.
    pub fn decide(
        &self,
        variables: &Variables,
        may_fail: bool,
        attempt: &Attempt<'_>,
        name: &str,
    ) -> StatusResult<bool> {
        match self.hold(variables) {
            Ok(holds) => Ok(holds),
            Err(_) if may_fail => Ok(false),
            Err(why) => Err(Status::forbidden(&attempt.row.kind.resource(), name, why)),
        }
    }
}

/// Says what is wrong with an expression at a field.
pub fn check(of: &Part<'_>, field: &str, declared: &Declarations, wanted: &[Type], errors: &mut Errors) {
    let text = text_at(of.value, field);
    if text.trim().is_empty() {
        // That it is missing is told by those who know whether it must be there.
        return;
    }
    if let Err(wrong) = Program::of_type(text, declared, wanted) {
        errors.invalid(of.path_of(field), text, &wrong.to_string());
    }
}

/// Says what is wrong with the expressions of `matchConditions`.
pub fn check_conditions(of: &Part<'_>, declared: &Declarations, errors: &mut Errors) {
    for (own, condition) in each(of.value, "matchConditions") {
        let path = of.path_of(&own);
        check(&Part { value: condition, path: &path }, "expression", declared, &[Type::Bool], errors);
    }
}

/// What a fault means to somebody who reads a refusal.
pub fn told(fault: &Fault, text: &str) -> String {
    match fault {
        Fault::Cost => {
            "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
        }
        Fault::Failed(why) => format!("expression '{}' resulted in error: {why}", text.trim()),
    }
}
