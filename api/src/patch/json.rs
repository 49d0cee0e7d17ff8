//! JSON patch (RFC 6902): a list of operations, each of which must succeed.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::{Fault, PatchError};

/// As in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;

/// How many values all copies of one patch may make. Without a bound, forty copies of a value into itself fill the
/// memory; an object of the largest size holds about this many.
const COPIED_VALUES_MAX: usize = 1_000_000;

pub fn json(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let n_operations = patch.as_array().map_or(0, Vec::len);
    if n_operations > OPERATIONS_MAX {
        let message = format!("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {n_operations}");
        return Err(PatchError { fault: Fault::TooLarge, message });
    }
    let patch: Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::malformed(format!("this is not a JSON patch, a list of operations: {error}")))?;

    let mut patched = document.clone();
    let mut n_copied = 0;
    for (at, operation) in patch.0.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            n_copied += copy.from.resolve(&patched).map_or(0, n_values);
            if n_copied > COPIED_VALUES_MAX {
                let message = format!("the copies of this JSON patch add up to more than {COPIED_VALUES_MAX} values");
                return Err(PatchError { fault: Fault::TooLarge, message });
            }
        }
        // Who tests for null means that nothing is there: a field that is absent is as good as one that is null. kube-rs
        // adds its first finalizer like that.
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && test.path.resolve(&patched).is_err()
        {
            continue;
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
            let name = operation_name(operation);
            let path = operation.path();
            PatchError::unfit(format!("operation {at}, {name} \"{path}\": {}", error.kind))
        })?;
    }
    Ok(patched)
}

fn operation_name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

fn n_values(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(n_values).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(n_values).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn operations_are_carried_out_in_order_or_not_at_all() {
        let document = value!({"a": {"b": 1}, "list": [1, 2]});
        let patch = value!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "replace", "path": "/a/b", "value": 2},
            {"op": "add", "path": "/list/-", "value": 3}, {"op": "remove", "path": "/list/0"}, {"op": "copy", "from": "/a", "path": "/c"}]);
        assert_eq!(json(&document, &patch).unwrap(), value!({"a": {"b": 2}, "c": {"b": 2}, "list": [2, 3]}));
    }

    #[test]
    fn what_is_absent_passes_a_test_for_null() {
        let patch = value!([{"op": "test", "path": "/a/b", "value": null}, {"op": "add", "path": "/a/b", "value": 1}]);
        assert_eq!(json(&value!({"a": {}}), &patch).unwrap(), value!({"a": {"b": 1}}));
        assert!(json(&value!({"a": {"b": 2}}), &patch).is_err());
    }

    #[test]
    fn faults_are_told_apart() {
        let fault = |patch| json(&value!({"a": 1}), &patch).unwrap_err();
        let error = fault(value!([{"op": "test", "path": "/a", "value": 2}]));
        assert_eq!(
            (error.fault, error.message.as_str()),
            (Fault::Unfit, "operation 0, test \"/a\": value did not match")
        );
        assert_eq!(fault(value!([{"op": "remove", "path": "/x"}])).fault, Fault::Unfit);
        assert_eq!(fault(value!({"a": 1})).fault, Fault::Malformed);
        assert_eq!(fault(value!([{"op": "fly", "path": "/a"}])).fault, Fault::Malformed);
        assert_eq!(fault(vec![value!({"op": "remove", "path": "/a"}); 10_001].into()).fault, Fault::TooLarge);
        let doubling: Vec<Value> =
            (0..40).map(|n| value!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
        assert_eq!(fault(doubling.into()).fault, Fault::TooLarge);
    }
}
