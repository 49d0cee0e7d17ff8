//! Bearer tokens: of service accounts, and those that machines begin with.

mod account;
mod bootstrap;
mod issue;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::response::Response;
use copepod_api::{Key, Object, Status, StatusResult, Timestamp, User, resource::SECRETS};
use copepod_identity::AccountKeys;
use copepod_store::{Door, View};
use serde_json::{Value, json};

use account::{Bound, ISSUER, claims};
pub use issue::{answer as issue, pod_token};

use crate::{answer, front::Front};

/// The keys of the cluster, read when first used and again when their Secret changed.
#[derive(Default)]
pub struct Keys {
    known: ArcSwapOption<Known>,
}

struct Known {
    secret: Arc<Object>,
    keys: Arc<AccountKeys>,
}

impl Keys {
    pub fn at(&self, view: &View) -> StatusResult<Arc<AccountKeys>> {
        let key = Key::new(SECRETS, AccountKeys::NAMESPACE, AccountKeys::SECRET);
        let secret = view.object(&key).ok_or_else(|| {
            Status::unavailable("the cluster has no keys for tokens yet; they are made when a server begins to lead")
        })?;
        if let Some(known) = &*self.known.load()
            && Arc::ptr_eq(&known.secret, secret)
        {
            return Ok(known.keys.clone());
        }
        let value: Value = serde_json::from_slice(&secret.bytes()).map_err(Status::internal)?;
        let keys = Arc::new(AccountKeys::read(&value).map_err(Status::internal)?);
        self.known.store(Some(Arc::new(Known { secret: secret.clone(), keys: keys.clone() })));
        Ok(keys)
    }
}

/// Who issues tokens and where the keys are, for those who check tokens without asking us (OpenID Connect Discovery).
pub fn issuer() -> Response {
    let document = json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    answer::typed(200, "application/json", document.to_string())
}

pub fn issuer_keys(front: &Front) -> StatusResult<Response> {
    let keys = front.keys.at(&front.door.view())?.public();
    Ok(answer::typed(200, "application/jwk-set+json", keys.to_string()))
}

/// Who a token is, and for which of `audiences` it is.
#[derive(Debug)]
pub struct Identity {
    pub user: User,
    pub audiences: Vec<String>,
}

/// Whose token it is. `audiences`: whom it may be meant for; without any, this API.
pub async fn authenticate(door: &dyn Door, keys: &Keys, token: &str, audiences: &[String]) -> Result<Identity, String> {
    let known = judge(&door.view(), keys, token, audiences);
    let Err(Refusal::Unknown(_)) = known else { return known.map_err(Refusal::into_text) };
    // A token may be newer than the view of this server. Only those that could be good are worth the question.
    let view = door.fresh().await.map_err(|status| status.message().to_owned())?;
    judge(&view, keys, token, audiences).map_err(Refusal::into_text)
}

/// Why a token is not accepted.
#[derive(Debug)]
pub enum Refusal {
    /// It would be good, if what it rests on were there.
    Unknown(String),
    Bad(String),
}

impl Refusal {
    pub fn into_text(self) -> String {
        match self {
            Refusal::Unknown(text) | Refusal::Bad(text) => text,
        }
    }
}

/// The same by what one view says.
pub fn judge(view: &View, keys: &Keys, token: &str, audiences: &[String]) -> Result<Identity, Refusal> {
    let now = Timestamp::now();
    if let Some((id, secret)) = bootstrap::parts(token) {
        return bootstrap::judge(view, id, secret, now);
    }
    let keys = keys.at(view).map_err(|status| Refusal::Bad(status.message().to_owned()))?;
    let claims = keys.verify(token).ok_or_else(|| {
        let why = "invalid bearer token".to_owned();
        // The key may be newer than this view, as when it was rotated a moment ago.
        if account::claims_to_be_ours(token) && !keys.has_signed(token) {
            Refusal::Unknown(why)
        } else {
            Refusal::Bad(why)
        }
    })?;
    account::judge(view, &claims, token, audiences, now)
}
