//! Tokens that machines begin with: `abcdef.0123456789abcdef`, kept as Secrets of kube-system that expire.

use copepod_api::{Key, Timestamp, User, resource::SECRETS};
use copepod_store::View;
use k8s_openapi::api::core::v1::Secret;

use super::{Identity, Refusal};
use crate::who::AUTHENTICATED;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// The id and the secret, if it is a token of this form.
pub fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (is(id, ID_LENGTH) && is(secret, SECRET_LENGTH)).then_some((id, secret))
}

pub fn judge(view: &View, id: &str, secret: &str, now: Timestamp) -> Result<Identity, Refusal> {
    let invalid = || Refusal::Unknown("invalid bearer token".to_owned());
    let kept = view.object(&Key::new(SECRETS, NAMESPACE, format!("bootstrap-token-{id}"))).ok_or_else(invalid)?;
    let is_leaving = kept.meta.is_leaving();
    let kept: Secret = serde_json::from_slice(&kept.bytes()).map_err(|_| invalid())?;
    let field = |name: &str| {
        let bytes = &kept.data.as_ref()?.get(name)?.0;
        std::str::from_utf8(bytes).ok()
    };
    let is_good = kept.type_.as_deref() == Some(TYPE)
        && !is_leaving
        && field("token-id") == Some(id)
        && field("token-secret").is_some_and(|own| is_same(own, secret))
        && field("usage-bootstrap-authentication") == Some("true")
        && field("expiration").is_none_or(|at| at.parse::<Timestamp>().is_ok_and(|at| now < at));
    if !is_good {
        return Err(invalid());
    }
    let mut groups = vec![GROUP.into()];
    for group in field("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        // Anything else could be made an administrator by whoever writes Secrets.
        if !group.starts_with("system:bootstrappers:") {
            return Err(invalid());
        }
        groups.push(group.into());
    }
    groups.push(AUTHENTICATED.into());
    let user = User { name: format!("system:bootstrap:{id}").into(), groups, ..User::default() };
    Ok(Identity { user, audiences: Vec::new() })
}

/// Compares without telling by the time it takes how much was right.
fn is_same(own: &str, shown: &str) -> bool {
    own.len() == shown.len() && own.bytes().zip(shown.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
