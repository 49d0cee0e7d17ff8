//! What policies that validate and policies that change have in common: where they hold, with which parameters, and the
//! names that their expressions use.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use copepod_api::{
    Object, Resource, StatusResult, k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta, resource::NAMESPACES,
    selector::LabelSelector,
};
use copepod_cel::{Bindings, Budget, Declarations, Fault, Type, Value as CelValue, Variables};
use copepod_store::View;
use serde::Deserialize;
use serde_json::Value;

use super::{
    attempt::Attempt,
    expressions::{self, Compiled, Conditions, compiled},
    matching::{Constraints, Found},
};
use crate::{
    Catalog,
    pipeline::World,
    rules::{at, list_at, text_at},
};

/// What all expressions of a policy may cost for one write.
pub const POLICY_COST_MAX: u64 = 10_000_000;

/// A policy, beside what it does.
#[derive(Clone, Debug)]
pub struct Policy {
    pub name: String,
    /// A fault of an expression is no refusal.
    pub may_fail: bool,
    constraints: Constraints,
    conditions: Conditions,
    /// `apiVersion` and `kind` of its parameters.
    param_kind: Option<(String, String)>,
    pub variables: Vec<(String, Compiled)>,
}

/// Where and how a policy is in force.
#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    policy: String,
    constraints: Constraints,
    params: Option<ParamRef>,
    pub actions: Vec<String>,
}

#[derive(Clone, Debug)]
struct ParamRef {
    name: String,
    namespace: String,
    selector: LabelSelector,
    /// Without parameters, the write is refused.
    is_needed: bool,
}

/// The names that a policy's expressions may use.
pub fn declared(spec: &Value) -> Declarations {
    let mut declared = expressions::declared().with("namespaceObject", Type::Dyn);
    if at(spec, "paramKind").is_object() {
        declared.declare("params", Type::Dyn);
    }
    declared
}

/// The names after the variables of a policy, which see those before them; and what is wrong with these.
pub fn with_variables(spec: &Value, declared: Declarations) -> (Declarations, Vec<(String, Compiled)>) {
    let mut known = BTreeMap::new();
    let mut variables = Vec::new();
    let all = |known: &BTreeMap<String, Type>| {
        // An object without fields would have any.
        let fields = known.clone().into_iter().chain([(String::new(), Type::Null)]);
        declared.clone().with("variables", Type::object("kubernetes.variables", fields))
    };
    for variable in list_at(spec, "variables") {
        let (name, text) = (text_at(variable, "name"), text_at(variable, "expression"));
        let program = compiled(text, &all(&known), &[Type::Dyn]);
        let type_ = program.as_ref().map_or(Type::Dyn, |program| program.type_().clone());
        known.insert(name.to_owned(), type_);
        variables.push((name.to_owned(), program));
    }
    (all(&known), variables)
}

impl Policy {
    /// Gives the names that the rest of its expressions may use, too.
    pub fn of(object: &Object, value: &Value) -> (Policy, Declarations) {
        let spec = at(value, "spec");
        let declared = declared(spec);
        let conditions = Conditions::of(spec, &declared);
        let (declared, variables) = with_variables(spec, declared);
        let kind = at(spec, "paramKind");
        let policy = Policy {
            name: object.key.name().to_owned(),
            may_fail: text_at(spec, "failurePolicy") == "Ignore",
            constraints: Constraints::of(at(spec, "matchConstraints"), "resourceRules"),
            conditions,
            param_kind: kind
                .is_object()
                .then(|| (text_at(kind, "apiVersion").to_owned(), text_at(kind, "kind").to_owned())),
            variables,
        };
        (policy, declared)
    }
}

impl Binding {
    pub fn of(object: &Object) -> Binding {
        let value: Value = serde_json::from_slice(&object.bytes()).unwrap_or_default();
        let spec = at(&value, "spec");
        let params = at(spec, "paramRef");
        let selector = meta::LabelSelector::deserialize(at(params, "selector")).unwrap_or_default();
        Binding {
            name: object.key.name().to_owned(),
            policy: text_at(spec, "policyName").to_owned(),
            constraints: Constraints::of(at(spec, "matchResources"), "resourceRules"),
            params: params.is_object().then(|| ParamRef {
                name: text_at(params, "name").to_owned(),
                namespace: text_at(params, "namespace").to_owned(),
                selector: LabelSelector::from_typed(&selector).unwrap_or_else(|_| LabelSelector::nothing()),
                is_needed: text_at(params, "parameterNotFoundAction") != "Allow",
            }),
            actions: list_at(spec, "validationActions").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

/// The bindings of a kind of policy.
pub fn bindings(view: &View, resource: &Resource) -> Arc<Vec<Arc<Binding>>> {
    let all = view
        .derived(resource, |bindings| bindings.filter_map(|binding| binding.derived(Binding::of)).collect::<Vec<_>>());
    all.unwrap_or_default()
}

/// A policy that has something to say about a write: by which binding, and with which parameters.
pub struct Case<'a> {
    pub binding: &'a Binding,
    pub variables: Names<'a>,
}

/// Why a policy cannot be held against a write.
pub struct Unfit<'a> {
    pub binding: Option<&'a Binding>,
    pub why: String,
    /// The binding itself does not fit, so that what it wants done is not known either.
    pub is_configuration: bool,
}

/// The cases of a policy. One that cannot be judged is an error in their place.
pub fn cases<'a>(
    world: &World<'_>,
    policy: &'a Policy,
    bindings: &'a [Arc<Binding>],
    attempt: &Attempt<'_>,
    object: &Value,
) -> Vec<Result<Case<'a>, Unfit<'a>>> {
    let own: Vec<&Arc<Binding>> = bindings.iter().filter(|binding| binding.policy == policy.name).collect();
    let Some(found) = policy.constraints.find(world, attempt, object, false).filter(|_| !own.is_empty()) else {
        return Vec::new();
    };
    let mut cases = Vec::new();
    let mut base = None;
    for binding in own {
        if binding.constraints.find(world, attempt, object, true).is_none() {
            continue;
        }
        let base = match &base {
            Some(base) => base,
            None => match names(world, attempt, &found, object) {
                Ok(names) => base.insert(names),
                Err(status) => {
                    let why = status.message().to_owned();
                    cases.push(Err(Unfit { binding: Some(binding), why, is_configuration: false }));
                    continue;
                }
            },
        };
        let params = match params(world, policy, binding, attempt) {
            Ok(params) => params,
            Err(unfit) => {
                cases.extend(unfit.map(Err));
                continue;
            }
        };
        for param in params {
            let mut values = base.clone();
            values.set("params", param.as_ref().map_or(CelValue::Null, CelValue::from));
            match policy.conditions.hold(&values) {
                Ok(true) => cases.push(Ok(Case { binding, variables: Names::new(values, &policy.variables) })),
                Ok(false) => {}
                Err(why) => cases.push(Err(Unfit { binding: Some(binding), why, is_configuration: false })),
            }
        }
    }
    cases
}

fn names(world: &World<'_>, attempt: &Attempt<'_>, found: &Found, object: &Value) -> StatusResult<Variables> {
    let namespace = attempt.namespace(object);
    let namespace = match attempt.is_about_namespace() || namespace.is_empty() {
        true => None,
        false => world.get(&NAMESPACES, "", namespace),
    };
    let namespace = namespace.map(|namespace| namespace.apart().value().into());
    let variables = expressions::variables(world, attempt, found.row(attempt), object)?;
    Ok(variables.with("namespaceObject", namespace.unwrap_or(CelValue::Null)))
}

/// The objects that a binding names as parameters; one nothing where the policy has none.
fn params<'a>(
    world: &World<'_>,
    policy: &Policy,
    binding: &'a Binding,
    attempt: &Attempt<'_>,
) -> Result<Vec<Option<Value>>, Option<Unfit<'a>>> {
    let unfit = |why: String| {
        let why = format!("failed to configure binding: {why}");
        Some(Unfit { binding: Some(binding), why, is_configuration: true })
    };
    let (Some((version, kind)), Some(params)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![None]);
    };
    let catalog = Catalog::of(&world.view);
    let is_kind = |row: &&Arc<crate::Row>| row.kind.api_version() == *version && row.kind.name == *kind;
    let row = catalog.rows().iter().find(is_kind);
    let row =
        row.ok_or_else(|| unfit(format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'")))?;
    let namespace = match (row.kind.is_namespaced(), &*params.namespace) {
        (false, "") => "",
        (false, _) => {
            return Err(unfit("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()));
        }
        (true, "") if attempt.target.namespace.is_empty() => {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(unfit(why.to_owned()));
        }
        (true, "") => &attempt.target.namespace,
        (true, namespace) => namespace,
    };
    let shown = |object: &Arc<Object>| {
        let shown = world.show(row, object).map_err(|status| unfit(status.message().to_owned()))?;
        Ok::<_, Option<Unfit<'a>>>(Some(shown.apart().value().clone()))
    };
    let found: Vec<Option<Value>> = if params.name.is_empty() {
        let all = world.view.objects(&row.resource(), Some(namespace).filter(|_| row.kind.is_namespaced()));
        all.filter(|object| params.selector.matches(&object.meta.labels)).map(shown).collect::<Result<_, _>>()?
    } else {
        world.get(&row.resource(), namespace, &params.name).map(shown).into_iter().collect::<Result<_, _>>()?
    };
    match (found.is_empty(), params.is_needed) {
        (true, true) => Err(unfit("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned())),
        (true, false) => Err(None),
        (false, _) => Ok(found),
    }
}

/// The values that expressions see, and the variables of the policy, each made when it is first asked for.
pub struct Names<'a> {
    values: Variables,
    variables: &'a [(String, Compiled)],
    known: RefCell<BTreeMap<String, Result<CelValue, Fault>>>,
}

impl<'a> Names<'a> {
    pub fn new(values: Variables, variables: &'a [(String, Compiled)]) -> Names<'a> {
        Names { values, variables, known: RefCell::default() }
    }

    /// The same with another object, for who changes it step by step.
    pub fn with_object(&self, object: &Value) -> Names<'a> {
        Names::new(self.values.clone().with("object", object.into()), self.variables)
    }
}

impl Bindings for Names<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<CelValue, Fault>> {
        let Some(variable) = name.strip_prefix("variables.") else { return self.values.get(name, budget) };
        if let Some(known) = self.known.borrow().get(variable) {
            return Some(known.clone());
        }
        let (_, program) = self.variables.iter().find(|(own, _)| own == variable)?;
        let value = match program {
            // It may be used by many expressions, and by other variables, so it may not grow with each.
            Ok(program) => program.evaluate(self, budget).and_then(|value| value.leaves().map(|()| value)),
            Err(why) => Err(Fault::Failed(why.clone())),
        };
        self.known.borrow_mut().insert(variable.to_owned(), value.clone());
        Some(value)
    }
}
