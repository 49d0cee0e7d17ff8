//! Who am I, and whose token is this.

use copepod_api::{Status, StatusResult, User};
use k8s_openapi::api::authentication::v1::TokenReviewSpec;
use serde_json::{Value, json};

use super::{Asker, read};
use crate::tokens;

pub const TOKEN_REVIEW: &str = "TokenReview";

pub fn who_am_i(asker: &Asker<'_>, _: &Value) -> StatusResult<Value> {
    Ok(json!({"userInfo": info(asker.user)}))
}

pub fn whose_token(asker: &Asker<'_>, sent: &Value) -> StatusResult<Value> {
    let spec: TokenReviewSpec = read(sent, TOKEN_REVIEW)?;
    let token = &spec.token;
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    Ok(match tokens::judge(asker.view, asker.keys, token, &spec.audiences.unwrap_or_default()) {
        Ok(identity) => json!({
            "authenticated": true, "user": info(&identity.user), "audiences": identity.audiences,
        }),
        Err(refusal) => json!({"user": {}, "error": refusal.into_text()}),
    })
}

/// A user as a `UserInfo`.
pub fn info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = json!(uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
