//! Leases: `coordination.k8s.io/v1`.

use copepod_api::{
    Scope,
    field::{Errors, Path},
};
use k8s_openapi::api::coordination::v1::Lease;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Row,
    json::text,
    row::{self, AGE, Column, Hooks, NAME, column, kind},
};

const COLUMNS: &[Column] = &[NAME, column("Holder", "string", "Who holds it."), AGE];

pub(crate) fn rows() -> Vec<Row> {
    vec![lease()]
}

fn lease() -> Row {
    Row::new(
        kind::<Lease>("leases", "lease", &[], Scope::Namespaced, &[]),
        Hooks {
            validate: |object, errors| {
                validate(&Lease::deserialize(object).map_err(|error| error.to_string())?, errors);
                Ok(())
            },
            columns: COLUMNS,
            cells: |object, now| {
                let holder = text(object.value(), "/spec/holderIdentity").unwrap_or_default();
                vec![row::name(object), json!(holder), row::age(object, now)]
            },
            // Two who renew the same lease must not both succeed.
            revision_required: true,
            ..Hooks::NONE
        },
    )
}

fn validate(lease: &Lease, errors: &mut Errors) {
    let path = Path::root("spec");
    let Some(spec) = &lease.spec else { return };
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        errors.invalid(path.at("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    if let Some(count) = spec.lease_transitions.filter(|count| *count < 0) {
        errors.invalid(path.at("leaseTransitions"), count, "must be greater than or equal to 0");
    }
}
