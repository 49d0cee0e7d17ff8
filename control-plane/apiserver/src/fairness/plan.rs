//! Which requests belong together, and how many seats each level has: FlowSchemas and PriorityLevelConfigurations.

use std::{collections::BTreeMap, sync::Arc};

use copepod_access::{SERVICE_ACCOUNT_PREFIX, Wish};
use copepod_api::{
    User,
    k8s_openapi::api::flowcontrol::v1::{
        FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration, ResourcePolicyRule,
        Subject,
    },
};

use super::levels::{Limits, Queuing};

/// What an administrator's numbers are cut to: more queues than this help nobody and cost memory.
const QUEUES_MAX: i32 = 1_024;
const QUEUE_LENGTH_MAX: i32 = 1_000;

/// Schemas in the order in which they are tried, and the levels that they lead to.
#[derive(Default)]
pub struct Plan {
    schemas: Vec<FlowSchema>,
    levels: BTreeMap<Arc<str>, Stated>,
}

struct Stated {
    uid: Arc<str>,
    limits: Limits,
}

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub schema: Arc<str>,
    pub schema_uid: Arc<str>,
    pub level: Arc<str>,
    pub level_uid: Arc<str>,
    /// What tells the schema's flows apart.
    pub distinguisher: String,
}

impl Plan {
    /// `seats`: how many there are for all levels, which share them.
    pub fn new(mut schemas: Vec<FlowSchema>, levels: &[PriorityLevelConfiguration], seats: u32) -> Plan {
        let shares: u64 = levels.iter().map(shares).sum();
        let levels: BTreeMap<Arc<str>, Stated> = levels
            .iter()
            .map(|level| {
                let uid = level.metadata.uid.as_deref().unwrap_or_default().into();
                let nominal = (u64::from(seats) * self::shares(level)).div_ceil(shares.max(1)) as u32;
                let limits = limits(level, nominal);
                (level.metadata.name.as_deref().unwrap_or_default().into(), Stated { uid, limits })
            })
            .collect();
        // A schema that leads nowhere is passed over.
        schemas.retain(|schema| {
            let level = schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.as_str());
            level.is_some_and(|level| levels.contains_key(level))
        });
        schemas.sort_by_key(|schema| {
            let precedence = schema.spec.as_ref().and_then(|spec| spec.matching_precedence).unwrap_or(1_000);
            (precedence, schema.metadata.name.clone())
        });
        Plan { schemas, levels }
    }

    pub fn limits(&self) -> BTreeMap<Arc<str>, Limits> {
        self.levels.iter().map(|(name, stated)| (name.clone(), stated.limits.clone())).collect()
    }

    /// The first schema that matches, or else the last there is, which is `catch-all`.
    pub fn classify(&self, user: &User, wish: &Wish<'_>) -> Option<Class> {
        let (schema, spec) = self
            .schemas
            .iter()
            .filter_map(|schema| Some((schema, schema.spec.as_ref()?)))
            .find(|(_, spec)| spec.rules.iter().flatten().any(|rule| matches(rule, user, wish)))
            .or_else(|| self.schemas.last().and_then(|schema| Some((schema, schema.spec.as_ref()?))))?;
        let (level, stated) = self.levels.get_key_value(spec.priority_level_configuration.name.as_str())?;
        let distinguisher = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
            Some("ByUser") => user.name.to_string(),
            Some("ByNamespace") => wish.namespace().to_owned(),
            _ => String::new(),
        };
        Some(Class {
            schema: schema.metadata.name.as_deref().unwrap_or_default().into(),
            schema_uid: schema.metadata.uid.as_deref().unwrap_or_default().into(),
            level: level.clone(),
            level_uid: stated.uid.clone(),
            distinguisher,
        })
    }
}

fn shares(level: &PriorityLevelConfiguration) -> u64 {
    let spec = level.spec.as_ref();
    let limited =
        spec.and_then(|spec| spec.limited.as_ref()).map(|limited| limited.nominal_concurrency_shares.unwrap_or(30));
    let exempt =
        spec.and_then(|spec| spec.exempt.as_ref()).map(|exempt| exempt.nominal_concurrency_shares.unwrap_or(0));
    limited.or(exempt).unwrap_or(0).max(0) as u64
}

fn limits(level: &PriorityLevelConfiguration, seats: u32) -> Limits {
    let Some(limited) = level.spec.as_ref().and_then(|spec| spec.limited.as_ref()) else { return Limits::Exempt };
    let percent = |percent: i32| (u64::from(seats) * percent.max(0) as u64 / 100) as u32;
    let response = limited.limit_response.as_ref().filter(|response| response.type_ == "Queue");
    let queuing = response.map(|response| {
        let queuing = response.queuing.clone().unwrap_or_default();
        Queuing {
            queues: queuing.queues.unwrap_or(64).clamp(1, QUEUES_MAX) as usize,
            hand: queuing.hand_size.unwrap_or(8).clamp(1, QUEUES_MAX) as usize,
            length: queuing.queue_length_limit.unwrap_or(50).clamp(1, QUEUE_LENGTH_MAX) as usize,
        }
    });
    Limits::Limited {
        seats,
        lendable: percent(limited.lendable_percent.unwrap_or(0)).min(seats),
        borrows: limited.borrowing_limit_percent.map(percent),
        queuing,
    }
}

fn matches(rule: &PolicyRulesWithSubjects, user: &User, wish: &Wish<'_>) -> bool {
    rule.subjects.iter().any(|subject| is_subject(subject, user))
        && match wish {
            Wish::Object(_) => rule.resource_rules.iter().flatten().any(|rule| matches_object(rule, wish)),
            Wish::Path { verb, path } => {
                rule.non_resource_rules.iter().flatten().any(|rule| matches_path(rule, verb, path))
            }
        }
}

fn is_subject(subject: &Subject, user: &User) -> bool {
    let is_named = |wanted: &str| wanted == "*" || wanted == &*user.name;
    if let Some(wanted) = &subject.user {
        return is_named(&wanted.name);
    }
    if let Some(wanted) = &subject.group {
        return wanted.name == "*" || user.is_in(&wanted.name);
    }
    let Some(wanted) = &subject.service_account else { return false };
    let own = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|own| own.split_once(':'));
    own.is_some_and(|(namespace, name)| wanted.namespace == namespace && (wanted.name == "*" || wanted.name == name))
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == "*" || own == value)
}

fn matches_object(rule: &ResourcePolicyRule, wish: &Wish<'_>) -> bool {
    let Wish::Object(wish) = wish else { return false };
    let is_there = match wish.namespace {
        "" => rule.cluster_scope.unwrap_or(false),
        namespace => has(rule.namespaces.as_deref().unwrap_or_default(), namespace),
    };
    is_there
        && has(&rule.verbs, wish.verb)
        && has(&rule.api_groups, wish.group)
        && has(&rule.resources, &wish.full_resource())
}

fn matches_path(rule: &NonResourcePolicyRule, verb: &str, path: &str) -> bool {
    has(&rule.verbs, verb)
        && rule.non_resource_urls.iter().any(|own| match own.strip_suffix("/*") {
            _ if own == "*" || own == path => true,
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
            None => false,
        })
}
