//! Who the servers are, and changes of that.
//!
//! Every server tells of itself, so that a list can be made of what answers even when no majority does. Changes are the
//! leader's; another server answers with the leader's address, and the caller goes there.

use axum::{
    extract::{Path, State},
    response::Response,
};
use copepod_api::Status;
use copepod_replica::{ChangeError, Member};
use serde_json::{Value, json};

use super::{Means, Operations, answer, refusal, shown};

/// What this server knows and is.
pub async fn itself(State(means): Means) -> Response {
    let role = means.replica.role().borrow().clone();
    let members: Vec<Value> = means.replica.members().iter().map(shown).collect();
    let itself = json!({
        "name": means.name,
        "version": env!("CARGO_PKG_VERSION"),
        "revision": means.replica.view().revision().0,
        "leading": role.leading,
        "leader": role.leader.as_ref().map(shown),
        "members": members,
    });
    answer(200, &itself)
}

/// Takes a server out of the cluster. One that leads hands over first, and the caller goes on with its successor.
pub async fn remove(State(means): Means, Path(name): Path<String>) -> Response {
    let member = match means.leading_and(&name) {
        Ok(member) => member,
        Err(response) => return *response,
    };
    if member.name == means.name && means.replica.members().iter().filter(|member| !member.learner).count() > 1 {
        means.replica.transfer_leadership(None).await;
        return means.elsewhere();
    }
    changed(means.replica.remove_member(member.id).await)
}

/// Makes a server the leader.
pub async fn transfer(State(means): Means, Path(name): Path<String>) -> Response {
    let member = match means.leading_and(&name) {
        Ok(member) => member,
        Err(response) => return *response,
    };
    if member.name == means.name {
        return answer(200, &json!({"leader": name}));
    }
    if member.learner {
        let why = format!("{name} does not vote yet, and so cannot lead");
        return refusal(&Status::new(409, "Conflict", why));
    }
    means.replica.transfer_leadership(Some(member.id)).await;
    if means.replica.role().borrow().leading {
        let why = format!("{name} did not take over; is it up? `copepod server list` shows it");
        return refusal(&Status::new(409, "Conflict", why));
    }
    answer(200, &json!({"leader": name}))
}

impl Operations {
    /// The member of that name, if this server leads; else what to answer.
    fn leading_and(&self, name: &str) -> Result<Member, Box<Response>> {
        if !self.replica.role().borrow().leading {
            return Err(Box::new(self.elsewhere()));
        }
        let members = self.replica.members();
        members.iter().find(|member| member.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            let why = format!("there is no server {name:?}; there are {}", names.join(", "));
            Box::new(refusal(&Status::new(404, "NotFound", why)))
        })
    }

    /// Where to ask: the leader, as far as it is known.
    fn elsewhere(&self) -> Response {
        let leader = self.replica.role().borrow().leader.clone().filter(|leader| leader.name != self.name);
        answer(200, &json!({"elsewhere": leader.map(|leader| leader.address)}))
    }
}

fn changed(outcome: Result<(), ChangeError>) -> Response {
    match outcome {
        Ok(()) => answer(200, &json!({})),
        Err(ChangeError::NotLeader | ChangeError::Busy | ChangeError::Stopping) => {
            answer(200, &json!({"elsewhere": null}))
        }
        Err(ChangeError::Unknown(_)) => answer(200, &json!({})),
        Err(error) => refusal(&Status::new(409, "Conflict", error.to_string())),
    }
}
