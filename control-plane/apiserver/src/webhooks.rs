//! Webhooks of admission and conversion: questions go out, answers come back, until a write can be decided.
//!
//! What is asked, of whom and in which order, the registry says; here the questions are carried to their programs.

use std::{future::Future, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use copepod_api::{Status, StatusResult};
use copepod_registry::{Answer, Conversion, Question, Testimony, Undecided, Verdict};
use copepod_store::View;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    Tunnels,
    programs::{self, Address},
};

/// How often one write is decided anew. Each webhook that changes objects costs one more decision, and an object that
/// changes all the time some; more than this many is a quarrel that waiting does not end.
const DECISIONS_MAX: usize = 256;

/// How many questions may be under way. Each holds a connection and a copy of an object.
const QUESTIONS_MAX: usize = 512;

/// How long a conversion may take: what others give it, too.
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks webhooks.
#[derive(Clone)]
pub struct Webhooks {
    tunnels: Arc<dyn Tunnels>,
    places: Arc<Semaphore>,
}

impl Webhooks {
    pub fn new(tunnels: Arc<dyn Tunnels>) -> Webhooks {
        Webhooks { tunnels, places: Arc::new(Semaphore::new(QUESTIONS_MAX)) }
    }

    /// Decides until no question is open.
    pub async fn settle<T, F>(&self, view: impl Fn() -> View, mut decide: impl FnMut(Testimony) -> F) -> StatusResult<T>
    where
        F: Future<Output = Result<T, Undecided>>,
    {
        let mut known = Testimony::default();
        for _ in 0..DECISIONS_MAX {
            let (testimony, open) = match decide(known).await {
                Ok(decided) => return Ok(decided),
                Err(Undecided::Refused(status)) => return Err(status),
                Err(Undecided::Open { testimony, open }) => (testimony, open),
            };
            known = testimony;
            let view = view();
            let answers = join_all(open.questions.iter().map(|question| self.ask(&view, question)));
            let converted = join_all(open.conversions.iter().map(|conversion| self.convert(&view, conversion)));
            let (answers, converted) = futures::join!(answers, converted);
            for (question, answer) in open.questions.into_iter().zip(answers) {
                known.answer(question, answer);
            }
            for (conversion, answer) in open.conversions.iter().zip(converted) {
                known.convert(conversion, answer);
            }
        }
        Err(Status::timeout("the object changed each time when the webhooks had been asked about it; try again"))
    }

    /// Objects in another version of their kind, or why nobody made them.
    pub async fn convert(&self, view: &View, conversion: &Conversion) -> Result<Vec<Value>, String> {
        let place = tokio::time::timeout(CONVERSION_TIMEOUT, self.places.acquire()).await;
        let _place = place.map_err(|_| "too many webhooks are being asked".to_owned())?;
        let address = Address::of(&conversion.client)?;
        let trust = programs::trusted(conversion.client["caBundle"].as_str())?;
        let uid = copepod_identity::random_uuid();
        let review = json!({
            "apiVersion": format!("apiextensions.k8s.io/{}", conversion.review_version),
            "kind": "ConversionReview",
            "request": {"uid": uid, "desiredAPIVersion": conversion.version, "objects": conversion.objects},
        });
        let mut answer = address.post(view, &*self.tunnels, trust, &review, CONVERSION_TIMEOUT).await?;
        let mut response = checked(&mut answer, &review, &uid)?;
        if response["result"]["status"] != "Success" {
            let why = response["result"]["message"].as_str().filter(|why| !why.is_empty());
            return Err(why.unwrap_or("the webhook says no reason").to_owned());
        }
        match response["convertedObjects"].take() {
            Value::Array(objects) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }

    async fn ask(&self, view: &View, question: &Question) -> Answer {
        let timeout = Duration::from_secs(question.timeout_seconds.into());
        let failed = |why: String| format!("failed to call webhook: {why}");
        let place = tokio::time::timeout(timeout, self.places.acquire()).await;
        let _place = place.map_err(|_| failed("too many webhooks are being asked".to_owned()))?;
        let mut address = Address::of(&question.client).map_err(failed)?;
        address.path = format!("{}?timeout={}s", address.path, question.timeout_seconds);
        let trust = programs::trusted(question.client["caBundle"].as_str()).map_err(failed)?;
        let uid = copepod_identity::random_uuid();
        let review = review(question, &uid);
        let answer = address.post(view, &*self.tunnels, trust, &review, timeout).await.map_err(failed)?;
        verdict(question, &review, &uid, answer).map_err(|why| format!("received invalid webhook response: {why}"))
    }
}

fn review(question: &Question, uid: &str) -> Value {
    let mut request = question.request.clone();
    request["uid"] = uid.into();
    json!({
        "apiVersion": format!("admission.k8s.io/{}", question.review_version),
        "kind": "AdmissionReview",
        "request": request,
    })
}

/// What an answer says, if it is one to this question.
fn verdict(question: &Question, review: &Value, uid: &str, mut answer: Value) -> Result<Verdict, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut response = checked(&mut answer, review, uid)?;
    let allowed = response["allowed"].as_bool().unwrap_or(false);
    let patch = match (response["patch"].as_str().filter(|patch| !patch.is_empty()), text(&response["patchType"])) {
        (None, kind) if kind.is_empty() => None,
        (Some(_), _) if !question.may_change => {
            return Err("validating webhook may not return response.patch".to_owned());
        }
        (None, _) if !question.may_change => {
            return Err("validating webhook may not return response.patchType".to_owned());
        }
        (None, _) => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        (Some(_), kind) if kind.is_empty() => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (Some(patch), kind) if kind == "JSONPatch" => Some(decoded(patch)?),
        (Some(_), kind) => return Err(format!("invalid value of response.patchType {kind:?}: must be JSONPatch")),
    };
    let status = Some(response["status"].take()).filter(Value::is_object);
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(Verdict { allowed, patch, status, warnings: warnings.map(str::to_owned).collect() })
}

/// The response in an answer, if it is one to this review.
fn checked(answer: &mut Value, review: &Value, uid: &str) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = |review: &Value| format!("{}, Kind={}", text(&review["apiVersion"]), text(&review["kind"]));
    let (expected, found) = (named(review), named(answer));
    // The older version does not insist on saying what it is.
    let is_strict = text(&review["apiVersion"]).ends_with("/v1");
    if found != expected && is_strict {
        return Err(format!("expected webhook response of {expected}, got {found}"));
    }
    let response = answer["response"].take();
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let said = text(&response["uid"]);
    if said != uid && is_strict {
        return Err(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    Ok(response)
}

fn decoded(patch: &str) -> Result<Value, String> {
    let bytes = STANDARD.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("response.patch is not JSON: {error}"))
}
