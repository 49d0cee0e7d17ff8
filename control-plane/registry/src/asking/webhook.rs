//! Webhooks: which there are, in which order they are asked, and what their answers do.

use std::sync::Arc;

use copepod_api::{Object, Resource, Status, StatusResult, patch};
use copepod_store::View;
use serde::Deserialize;
use serde_json::Value;

use super::{
    GROUP,
    attempt::Attempt,
    expressions::{self, Conditions},
    matching::{Constraints, Found},
    testimony::{Answer, Question, Verdict, waiting},
};
use crate::{
    pipeline::{World, readmit},
    rules::{at, list_at, text_at},
};

const MUTATING: Resource = Resource::known(GROUP, "mutatingwebhookconfigurations");
const VALIDATING: Resource = Resource::known(GROUP, "validatingwebhookconfigurations");

/// How long one answer may take where its configuration does not say, in seconds.
const TIMEOUT: i64 = 10;

pub struct Webhook {
    name: String,
    /// Who it is among all: the configuration and the name.
    place: String,
    client: Value,
    constraints: Constraints,
    conditions: Conditions,
    /// No answer is no refusal.
    may_fail: bool,
    /// It wants to see again what others changed after it.
    is_reinvoked: bool,
    timeout_seconds: u8,
    review_version: String,
}

/// The webhooks of all configurations, by name; within one, in its order.
fn all(view: &View, resource: &Resource) -> Option<Arc<Vec<Arc<Webhook>>>> {
    view.derived(resource, |configurations| {
        configurations.filter_map(|configuration| configuration.derived(read)).flat_map(|own| (*own).clone()).collect()
    })
}

fn read(configuration: &Object) -> Vec<Arc<Webhook>> {
    let value: Value = serde_json::from_slice(&configuration.bytes()).unwrap_or_default();
    let webhooks = list_at(&value, "webhooks").iter();
    webhooks.map(|webhook| Arc::new(Webhook::of(&configuration.key, webhook))).collect()
}

impl Webhook {
    fn of(configuration: &copepod_api::Key, value: &Value) -> Webhook {
        let name = text_at(value, "name");
        let is_known = |version: &&Value| *version == "v1" || *version == "v1beta1";
        let version = list_at(value, "admissionReviewVersions").iter().find(is_known).and_then(Value::as_str);
        Webhook {
            name: name.to_owned(),
            place: format!("{configuration} {name}"),
            client: at(value, "clientConfig").clone(),
            constraints: Constraints::of(value, "rules"),
            conditions: Conditions::of(value, &expressions::declared()),
            may_fail: text_at(value, "failurePolicy") == "Ignore",
            is_reinvoked: text_at(value, "reinvocationPolicy") == "IfNeeded",
            timeout_seconds: at(value, "timeoutSeconds").as_i64().unwrap_or(TIMEOUT).clamp(1, 30) as u8,
            review_version: version.unwrap_or("v1").to_owned(),
        }
    }

    /// Whether it is to be asked about this, and in which version of the kind.
    fn is_asked(&self, world: &World<'_>, attempt: &Attempt<'_>, object: &Value) -> StatusResult<Option<Found>> {
        let Some(found) = self.constraints.find(world, attempt, object, false) else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(found));
        }
        let variables = expressions::variables(world, attempt, found.row(attempt), object)?;
        let holds = self.conditions.decide(&variables, self.may_fail, attempt, attempt.name(object))?;
        Ok(holds.then_some(found))
    }

    fn question(
        &self,
        world: &World<'_>,
        attempt: &Attempt<'_>,
        found: &Found,
        object: &Value,
    ) -> StatusResult<Question> {
        let request = attempt.review(world, found.row(attempt), object)?;
        let mut question = Question::new(&self.place, self.name.clone(), self.client.clone(), request);
        question.timeout_seconds = self.timeout_seconds;
        question.review_version = self.review_version.clone();
        Ok(question)
    }

    /// What follows from an answer: a verdict that allows, nothing where it may fail, or the refusal.
    fn judged(&self, world: &mut World<'_>, answer: &Answer) -> StatusResult<Option<Verdict>> {
        match answer {
            Ok(verdict) => {
                verdict.warnings.iter().for_each(|warning| world.warn(warning.as_str()));
                if verdict.allowed { Ok(Some(verdict.clone())) } else { Err(refusal(&self.name, verdict)) }
            }
            Err(_) if self.may_fail => Ok(None),
            Err(why) => Err(Status::internal(format!("failed calling webhook {:?}: {why}", self.name))),
        }
    }
}

/// Asks those who may change the object, one after the other; then once more those who want to see what others changed
/// after them. Says whether anything changed.
pub fn mutate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &mut Value) -> StatusResult<bool> {
    let Some(webhooks) = all(&world.view, &MUTATING) else { return Ok(false) };
    let mut has_changed = false;
    let mut again = vec![false; webhooks.len()];
    for (place, webhook) in webhooks.iter().enumerate() {
        let Some(found) = webhook.is_asked(world, attempt, object)? else { continue };
        if change(world, attempt, webhook, &found, object)? {
            has_changed = true;
            for (earlier, is_due) in webhooks[..place].iter().zip(&mut again) {
                *is_due |= earlier.is_reinvoked && earlier.is_asked(world, attempt, object)?.is_some();
            }
        }
    }
    for (webhook, _) in webhooks.iter().zip(again).filter(|(_, again)| *again) {
        if let Some(found) = webhook.is_asked(world, attempt, object)? {
            change(world, attempt, webhook, &found, object)?;
        }
    }
    Ok(has_changed)
}

/// Asks one; says whether the object is another afterwards.
fn change(
    world: &mut World<'_>,
    attempt: &Attempt<'_>,
    webhook: &Webhook,
    found: &Found,
    object: &mut Value,
) -> StatusResult<bool> {
    let mut question = webhook.question(world, attempt, found, object)?;
    question.may_change = true;
    let Some(answer) = world.testimony.says(&question).cloned() else {
        world.open.borrow_mut().ask(question);
        return Err(waiting());
    };
    let Some(Verdict { patch: Some(patch), .. }) = webhook.judged(world, &answer)? else { return Ok(false) };
    if object.is_null() {
        return Ok(false);
    }
    let row = found.row(attempt);
    let seen = attempt.seen_by(world, row, object)?;
    let changed = patch::json(&seen, &patch).map_err(|why| Status::internal(why.message))?;
    let mut new = match found {
        Found::Other(row) if attempt.is_of_kind() => world.converted(row, &changed, attempt.row)?,
        _ => changed,
    };
    if attempt.is_of_kind() {
        readmit(attempt.row, &mut new)?;
    }
    let differs = new != *object;
    *object = new;
    Ok(differs)
}

/// Asks all at the same time; the first refusal in their order counts.
pub fn validate(world: &mut World<'_>, attempt: &Attempt<'_>, object: &Value) -> StatusResult<()> {
    let Some(webhooks) = all(&world.view, &VALIDATING) else { return Ok(()) };
    let mut is_open = false;
    for webhook in webhooks.iter() {
        let Some(found) = webhook.is_asked(world, attempt, object)? else { continue };
        let question = webhook.question(world, attempt, &found, object)?;
        match world.testimony.says(&question).cloned() {
            Some(answer) => drop(webhook.judged(world, &answer)?),
            None => {
                world.open.borrow_mut().ask(question);
                is_open = true;
            }
        }
    }
    if is_open { Err(waiting()) } else { Ok(()) }
}

/// A refusal says at least that it is one.
fn refusal(webhook: &str, verdict: &Verdict) -> Status {
    const CODE_MIN: u64 = 400;
    let said = verdict.status.as_ref().unwrap_or(&Value::Null);
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match (text_at(said, "message"), text_at(said, "reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = at(said, "code").as_u64().filter(|code| (CODE_MIN..600).contains(code)).unwrap_or(CODE_MIN);
    let mut status = Status::new(code as u16, text_at(said, "reason"), message);
    if let Ok(details) = Deserialize::deserialize(at(said, "details")) {
        *status.details_mut() = details;
    }
    status
}
