//! How many pods load asks for: `autoscaling/v2`, and `autoscaling/v1`, which says less of the same.

use copepod_api::{Scope, field::Errors};
use k8s_openapi::api::autoscaling::{v1, v2};
use serde_json::{Value, json};

use crate::{
    Row, json as fields,
    json::{default, object},
    row::{self, AGE, Column, Hooks, NAME, STATUS, Stored, column, in_all, kind},
    rules::{self, Part, at, list_at, text_at},
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Reference", "string", "What it scales."),
    column("Targets", "string", "The load that is measured, and the load that is wanted."),
    column("MinPods", "string", "The fewest pods."),
    column("MaxPods", "string", "The most pods."),
    column("Replicas", "string", "How many there are."),
    AGE,
];

/// What an autoscaler looks at that is told nothing else.
const UTILIZATION: i64 = 80;

const PLURAL: &str = "horizontalpodautoscalers";
const SINGULAR: &str = "horizontalpodautoscaler";

pub(crate) fn rows() -> Vec<Row> {
    let short = &["hpa"];
    let second = kind::<v2::HorizontalPodAutoscaler>(PLURAL, SINGULAR, short, Scope::Namespaced, &[STATUS]);
    let first = kind::<v1::HorizontalPodAutoscaler>(PLURAL, SINGULAR, short, Scope::Namespaced, &[STATUS]);
    let resource = second.resource();
    let stored = Stored { resource, api_version: "autoscaling/v2".to_owned(), store: to_second, show: to_first };
    let hooks = Hooks {
        default: defaults,
        validate: |scaler, errors| {
            validate(scaler, errors);
            Ok(())
        },
        columns: COLUMNS,
        cells,
        generation: true,
        ..Hooks::NONE
    };
    let of_first = Hooks {
        default: |scaler| {
            if let Some(spec) = object(scaler, "spec") {
                default(spec, "minReplicas", 1);
            }
        },
        validate: |scaler, errors| {
            let mut scaler = scaler.clone();
            to_second(&mut scaler);
            validate(&scaler, errors);
            Ok(())
        },
        cells: |object, now| {
            let mut scaler = object.value().clone();
            to_second(&mut scaler);
            object.said(&scaler).map(|object| cells(&object, now)).unwrap_or_default()
        },
        ..hooks
    };
    vec![Row::new(in_all(second), hooks), Row::new(in_all(first), of_first).stored_as(stored)]
}

fn defaults(scaler: &mut Value) {
    let Some(spec) = object(scaler, "spec") else { return };
    default(spec, "minReplicas", 1);
    if list_at(spec, "metrics").is_empty() {
        fields::set(spec, "metrics", json!([cpu(UTILIZATION)]));
    }
    let Some(behavior) = spec.get_mut("behavior") else { return };
    for (direction, policies, window) in [
        (
            "scaleUp",
            json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]),
            Some(0),
        ),
        ("scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]), None),
    ] {
        let Some(rules) = object(behavior, direction) else { continue };
        default(rules, "selectPolicy", "Max");
        if let Some(seconds) = window {
            default(rules, "stabilizationWindowSeconds", seconds);
        }
        if list_at(rules, "policies").is_empty() {
            fields::set(rules, "policies", policies);
        }
    }
}

fn cpu(utilization: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": utilization});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn is_cpu(metric: &Value) -> bool {
    text_at(metric, "type") == "Resource" && text_at(metric, "resource.name") == "cpu"
}

/// The first version knows the use of the processor and nothing else; the rest is kept for it in annotations.
const KEPT: &[(&str, &str, &str)] = &[
    ("autoscaling.alpha.kubernetes.io/metrics", "spec", "metrics"),
    ("autoscaling.alpha.kubernetes.io/behavior", "spec", "behavior"),
    ("autoscaling.alpha.kubernetes.io/conditions", "status", "conditions"),
    ("autoscaling.alpha.kubernetes.io/current-metrics", "status", "currentMetrics"),
];

fn to_second(scaler: &mut Value) {
    for (annotation, part, field) in KEPT {
        let kept = scaler.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
        let kept = kept.and_then(|annotations| annotations.remove(*annotation));
        let kept = kept.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
        if let (Some(kept), Some(part)) = (kept, object(scaler, part)) {
            fields::set(part, field, kept);
        }
    }
    if let Some(spec) = scaler.get_mut("spec") {
        let utilization = at(spec, "targetCPUUtilizationPercentage").as_i64();
        fields::remove(spec, "targetCPUUtilizationPercentage");
        let mut metrics: Vec<Value> = list_at(spec, "metrics").to_vec();
        if let Some(utilization) = utilization {
            metrics.insert(0, cpu(utilization));
        } else if metrics.is_empty() {
            metrics.push(cpu(UTILIZATION));
        }
        fields::set(spec, "metrics", metrics);
    }
    if let Some(status) = scaler.get_mut("status") {
        fields::remove(status, "currentCPUUtilizationPercentage");
        default(status, "desiredReplicas", 0);
    }
}

fn to_first(scaler: &mut Value) {
    let metrics = list_at(scaler, "spec.metrics").to_vec();
    let chosen =
        metrics.iter().position(|metric| is_cpu(metric) && !at(metric, "resource.target.averageUtilization").is_null());
    let utilization = chosen.and_then(|index| at(&metrics[index], "resource.target.averageUtilization").as_i64());
    let others: Vec<Value> =
        metrics.into_iter().enumerate().filter(|(index, _)| Some(*index) != chosen).map(|(_, metric)| metric).collect();
    if let Some(spec) = scaler.get_mut("spec") {
        fields::set(spec, "metrics", others);
        if let Some(utilization) = utilization {
            fields::set(spec, "targetCPUUtilizationPercentage", utilization);
        }
    }
    for (annotation, part, field) in KEPT {
        let kept = scaler.get_mut(*part).and_then(Value::as_object_mut).and_then(|part| part.remove(*field));
        let kept = kept.filter(|kept| !kept.is_null() && kept.as_array().is_none_or(|items| !items.is_empty()));
        if let (Some(kept), Some(annotations)) =
            (kept, object(scaler, "metadata").and_then(|metadata| object(metadata, "annotations")))
        {
            fields::set(annotations, annotation, kept.to_string());
        }
    }
}

fn validate(scaler: &Value, errors: &mut Errors) {
    let spec = Part { value: at(scaler, "spec"), path: "spec" };
    spec.at_least("minReplicas", 1, errors);
    let (least, most) = (at(spec.value, "minReplicas").as_i64(), at(spec.value, "maxReplicas").as_i64().unwrap_or(0));
    if most < 1 {
        errors.invalid("spec.maxReplicas", most, "must be greater than 0");
    } else if least.is_some_and(|least| most < least) {
        errors.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`");
    }
    spec.required("scaleTargetRef.kind", errors);
    spec.required("scaleTargetRef.name", errors);
    for (path, metric) in rules::each(scaler, "spec.metrics") {
        let part = Part { value: metric, path: &path };
        part.required("type", errors);
        const TYPES: [(&str, &str); 5] = [
            ("ContainerResource", "containerResource"),
            ("External", "external"),
            ("Object", "object"),
            ("Pods", "pods"),
            ("Resource", "resource"),
        ];
        let type_ = text_at(metric, "type");
        let Some((_, field)) = TYPES.iter().find(|(name, _)| *name == type_) else {
            part.one_of("type", &TYPES.map(|(name, _)| name), errors);
            continue;
        };
        if !part.is_set(field) {
            errors.required(part.path_of(field), "must populate information for the given metric source");
        }
        let target = format!("{field}.target");
        if part.is_set(&target) {
            part.required(&format!("{target}.type"), errors);
            part.one_of(&format!("{target}.type"), &["AverageValue", "Utilization", "Value"], errors);
            part.at_least(&format!("{target}.averageUtilization"), 1, errors);
        }
    }
    for direction in ["scaleUp", "scaleDown"] {
        let path = format!("spec.behavior.{direction}");
        let rules = Part { value: at(scaler, &path), path: &path };
        rules.one_of("selectPolicy", &["Disabled", "Max", "Min"], errors);
        rules.at_least("stabilizationWindowSeconds", 0, errors);
        for (own, policy) in rules::each(rules.value, "policies") {
            let path = rules.path_of(&own);
            let policy = Part { value: policy, path: &path };
            policy.one_of("type", &["Percent", "Pods"], errors);
            policy.at_least("value", 1, errors);
            policy.at_least("periodSeconds", 1, errors);
        }
    }
}

fn cells(object: &copepod_api::Object, now: copepod_api::Timestamp) -> Vec<Value> {
    let scaler = object.value();
    let target = at(scaler, "spec.scaleTargetRef");
    let current = list_at(scaler, "status.currentMetrics");
    let shown: Vec<String> = list_at(scaler, "spec.metrics")
        .iter()
        .enumerate()
        .map(|(index, metric)| {
            let wanted = at(metric, "resource.target.averageUtilization");
            let name = text_at(metric, "resource.name");
            let has = current.get(index).map(|metric| at(metric, "resource.current.averageUtilization"));
            let has = has.and_then(Value::as_i64).map_or("<unknown>".to_owned(), |has| format!("{has}%"));
            match wanted.as_i64() {
                Some(wanted) => format!("{name}: {has}/{wanted}%"),
                None => format!("{}: <unknown>", text_at(metric, "type").to_lowercase()),
            }
        })
        .collect();
    let number = |path: &str| at(scaler, path).as_i64();
    let least = number("spec.minReplicas").map_or("<unset>".to_owned(), |least| least.to_string());
    vec![
        row::name(object),
        json!(format!("{}/{}", text_at(target, "kind"), text_at(target, "name"))),
        json!(if shown.is_empty() { "<none>".to_owned() } else { shown.join(", ") }),
        json!(least),
        json!(number("spec.maxReplicas").unwrap_or(0).to_string()),
        json!(number("status.currentReplicas").unwrap_or(0).to_string()),
        row::age(object, now),
    ]
}
