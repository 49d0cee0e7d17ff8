//! Who am I.

use copepod_api::{StatusResult, User};
use serde_json::{Value, json};

use super::Asker;

pub fn who_am_i(asker: &Asker<'_>, _: &Value) -> StatusResult<Value> {
    Ok(json!({"userInfo": info(asker.user)}))
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
