//! Questions, and what was answered.

use std::collections::BTreeMap;

use copepod_api::{Status, StatusResult, Timestamp};
use serde_json::Value;

use crate::apiextensions::Conversion;

/// Something that a webhook must be asked before a write can be decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The name of the webhook within its configuration.
    pub webhook: String,
    /// Its `clientConfig`: where it is asked.
    pub client: Value,
    pub timeout_seconds: u8,
    /// The version of `AdmissionReview` that it understands.
    pub review_version: String,
    /// It may answer with a patch.
    pub may_change: bool,
    /// The `AdmissionRequest`, without `uid`.
    pub request: Value,
    key: String,
}

/// What a webhook said, or why it said nothing.
pub type Answer = Result<Verdict, String>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    /// A JSON patch.
    pub patch: Option<Value>,
    /// The reason of a refusal: a `Status`.
    pub status: Option<Value>,
    pub warnings: Vec<String>,
}

/// What is known of a write from the times that it was decided before. Numbers thrown and the time stay what they were,
/// so that what somebody was shown is what will be.
#[derive(Clone, Debug, Default)]
pub struct Testimony {
    pub(crate) since: Option<Timestamp>,
    pub(crate) throws: Vec<u64>,
    answers: BTreeMap<String, Answer>,
    converted: BTreeMap<String, StatusResult<Vec<Value>>>,
}

/// What must be known before a write can be decided. None of it depends on another.
#[derive(Debug, Default)]
pub struct Open {
    pub questions: Vec<Question>,
    pub conversions: Vec<Conversion>,
}

/// Why there is no transaction.
#[derive(Debug)]
pub enum Undecided {
    Refused(Status),
    /// This must be answered first.
    Open {
        testimony: Testimony,
        open: Box<Open>,
    },
}

impl Question {
    /// `place` says who is asked and on which occasion.
    pub(super) fn new(place: &str, webhook: String, client: Value, request: Value) -> Question {
        let key = format!("{place} {request}");
        Question {
            webhook,
            client,
            timeout_seconds: 10,
            review_version: "v1".to_owned(),
            may_change: false,
            request,
            key,
        }
    }
}

impl Open {
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.conversions.is_empty()
    }

    /// Asks once, whoever wants to know.
    pub(crate) fn ask(&mut self, question: Question) {
        if !self.questions.contains(&question) {
            self.questions.push(question);
        }
    }

    pub(crate) fn ask_for(&mut self, conversion: Conversion) {
        if !self.conversions.contains(&conversion) {
            self.conversions.push(conversion);
        }
    }
}

/// Ends a request whose questions are open. Nobody is told this: the request is decided again.
pub(crate) fn waiting() -> Status {
    Status::internal("somebody has not been asked yet")
}

impl Testimony {
    pub fn answer(&mut self, question: Question, answer: Answer) {
        self.answers.insert(question.key, answer);
    }

    /// What somebody who converts objects said, or why they said nothing.
    pub fn convert(&mut self, conversion: &Conversion, answer: Result<Vec<Value>, String>) {
        self.converted.insert(conversion.key(), conversion.concluded(answer));
    }

    pub(crate) fn converted(&self, conversion: &Conversion) -> Option<&StatusResult<Vec<Value>>> {
        self.converted.get(&conversion.key())
    }

    pub(super) fn says(&self, question: &Question) -> Option<&Answer> {
        self.answers.get(&question.key)
    }
}
