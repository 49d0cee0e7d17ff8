//! The roles that every cluster has: made at its birth, mended whenever a server begins to lead.

use copepod_access::defaults::{self, Default, Mend};
use copepod_api::{Action, Patch, Request, Target, User, WriteOptions, request::FieldValidation};
use copepod_store::View;

/// The requests that make or mend what `view` lacks.
pub fn missing(view: &View, user: &User) -> Vec<Request> {
    defaults::all()
        .into_iter()
        .filter_map(|wanted| {
            let mend = defaults::mend(view, &wanted)?;
            Some(request(user, wanted, mend))
        })
        .collect()
}

fn request(user: &User, wanted: Default, mend: Mend) -> Request {
    let target = Target {
        resource: wanted.key.resource.clone(),
        version: "v1".into(),
        namespace: wanted.key.name.namespace.clone(),
        name: wanted.key.name.name.clone(),
        subresource: "".into(),
    };
    let action = match mend {
        Mend::Create => Action::Create { object: wanted.object },
        Mend::Patch(patch) => Action::Patch { patch: Patch::Merge(patch) },
    };
    let options = WriteOptions {
        field_manager: user.name.to_string(),
        field_validation: FieldValidation::Ignore,
        ..WriteOptions::default()
    };
    Request { user: user.clone(), target, action, options }
}
