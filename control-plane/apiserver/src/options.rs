//! What may be asked of a list or a watch, and what of it goes together.

use copepod_api::{Status, StatusResult, field::Errors};

use crate::query::Query;

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

/// Refuses what contradicts itself, all of it at once.
pub fn check(query: &Query, is_watch: bool) -> StatusResult<()> {
    let mut errors = Errors::default();
    let sends_initial = query.optional_flag("sendInitialEvents")?.is_some();
    if is_watch {
        check_watch(query, sends_initial, &mut errors);
    } else {
        check_list(query, sends_initial, &mut errors);
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid_as("meta.k8s.io", "ListOptions", "", errors)),
    }
}

fn check_list(query: &Query, sends_initial: bool, errors: &mut Errors) {
    const FIELD: &str = "resourceVersionMatch";
    if let Some(matching) = query.text(FIELD) {
        if query.text("resourceVersion").is_none() {
            errors.forbidden(FIELD, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if query.text("continue").is_some() {
            errors.forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided");
        }
        if ![EXACT, NOT_OLDER_THAN].contains(&matching) {
            errors.not_supported(FIELD, matching, &[EXACT, NOT_OLDER_THAN, ""]);
        }
        if matching == EXACT && query.text("resourceVersion") == Some("0") {
            errors.forbidden(FIELD, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if sends_initial {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
}

fn check_watch(query: &Query, sends_initial: bool, errors: &mut Errors) {
    const FIELD: &str = "resourceVersionMatch";
    let matching = query.text(FIELD);
    if sends_initial && matching != Some(NOT_OLDER_THAN) {
        errors.forbidden(FIELD, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if let Some(matching) = matching {
        if !sends_initial {
            errors.forbidden(FIELD, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if matching != NOT_OLDER_THAN {
            errors.not_supported(FIELD, matching, &[NOT_OLDER_THAN]);
        }
        if query.text("continue").is_some() {
            errors.forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
}

/// The list must show exactly the revision that is named.
pub fn is_exact(query: &Query) -> bool {
    query.text("resourceVersionMatch") == Some(EXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(query: &str, is_watch: bool) -> String {
        let query = Query::of(&format!("/api/v1/pods?{query}").parse().unwrap()).unwrap();
        check(&query, is_watch).err().map_or(String::new(), |status| format!("{} {}", status.code(), status.message()))
    }

    #[test]
    fn lists_are_refused_what_contradicts_itself() {
        for fine in
            ["", "resourceVersion=5", "resourceVersion=0&resourceVersionMatch=NotOlderThan", "limit=5&continue=x"]
        {
            assert_eq!(refusal(fine, false), "");
        }
        assert_eq!(
            refusal("resourceVersionMatch=Exact", false),
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        assert!(
            refusal("resourceVersionMatch=Exact&resourceVersion=0", false).contains("forbidden for resourceVersion")
        );
        assert!(refusal("resourceVersionMatch=Exact&resourceVersion=1&continue=x", false).contains("when continue"));
        assert!(refusal("resourceVersionMatch=Odd&resourceVersion=1", false).contains("Unsupported value: \"Odd\""));
        assert!(refusal("sendInitialEvents=true", false).contains("forbidden for list"));
    }

    #[test]
    fn watches_are_refused_what_contradicts_itself() {
        for fine in ["", "resourceVersion=5", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan"] {
            assert_eq!(refusal(fine, true), "");
        }
        assert!(refusal("sendInitialEvents=true", true).contains("requires setting resourceVersionMatch"));
        assert!(refusal("resourceVersionMatch=NotOlderThan", true).contains("unless sendInitialEvents"));
        let all = refusal("resourceVersionMatch=Exact&sendInitialEvents=true", true);
        assert!(all.contains("requires setting") && all.contains("supported values: \"NotOlderThan\""), "{all}");
    }
}
