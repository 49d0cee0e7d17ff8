//! Tells of each flow schema whether its priority level is there: requests pass over one that dangles.

use copepod_api::{
    Key, Plan, Timestamp, Typed, User,
    k8s_openapi::{
        api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration},
        apimachinery::pkg::apis::meta::v1::Time,
    },
};
use copepod_store::{Event, View};

use crate::{Controller, time, write};

pub const CONTROLLER: Controller =
    Controller { name: "flowschema-controller", wakes, all, reconcile, refused: crate::SILENT };

const DANGLING: &str = "Dangling";

fn wakes(view: &View, event: &Event) -> Vec<Key> {
    let resource = &event.object.key.resource;
    if *resource == FlowSchema::resource() {
        return vec![event.object.key.clone()];
    }
    let of_level = |schema: &FlowSchema| level(schema) == Some(event.object.key.name());
    let schemas = view.list::<FlowSchema>(None).filter(|schema| of_level(schema));
    match *resource == PriorityLevelConfiguration::resource() {
        true => schemas.map(|schema| schema.key().clone()).collect(),
        false => Vec::new(),
    }
}

fn all(view: &View) -> Vec<Key> {
    view.list::<FlowSchema>(None).map(|schema| schema.key().clone()).collect()
}

fn level(schema: &FlowSchema) -> Option<&str> {
    schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.as_str())
}

fn reconcile(view: &View, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(schema) = view.get::<FlowSchema>("", key.name()) else { return plan };
    let Some(level) = level(&schema).filter(|_| !schema.meta().is_leaving()) else { return plan };
    // These words are compared: a program that serves a group of its own with Kubernetes' library knows the same rules and
    // writes the condition again where it finds other words.
    let named = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match view.get::<PriorityLevelConfiguration>("", level) {
        Some(_) => ("False", "Found", format!("{named} and it exists")),
        None => ("True", "NotFound", format!("{named} but there is no such object")),
    };
    let mut wanted = schema.status.clone().unwrap_or_default();
    let conditions = wanted.conditions.get_or_insert_default();
    let stands = conditions.iter().position(|own| own.type_.as_deref() == Some(DANGLING));
    let is_told = stands.is_some_and(|place| {
        let own = &conditions[place];
        own.status.as_deref() == Some(status) && own.message.as_deref() == Some(&message)
    });
    if is_told {
        return plan;
    }
    let condition = FlowSchemaCondition {
        type_: Some(DANGLING.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(time::whole_seconds(now))),
    };
    match stands {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
    plan.push(write::status(&User::system("system:controller:flowschema-controller"), &schema, &wanted));
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::world::World;

    const GROUP: &str = "flowcontrol.apiserver.k8s.io";

    fn told(world: &World) -> String {
        let plan = world.plan(&super::CONTROLLER, &format!("flowschemas.{GROUP} own"));
        let Some(request) = plan.requests.first() else { return "nothing new".to_owned() };
        let copepod_api::Action::Update { object } = &request.action else { panic!("{request:?}") };
        let condition = &object["status"]["conditions"][0];
        format!("{} {} {}", condition["type"], condition["status"], condition["reason"]).replace('"', "")
    }

    #[test]
    fn a_schema_dangles_until_its_level_is_there() {
        let mut world = World::read("configmap x");
        let spec = json!({"spec": {"priorityLevelConfiguration": {"name": "high"}}});
        world.create(GROUP, "flowschemas", "FlowSchema", "", "own", spec);
        assert_eq!(told(&world), "Dangling True NotFound");
        world.settle();
        assert_eq!(told(&world), "nothing new");
        world.create(
            GROUP,
            "prioritylevelconfigurations",
            "PriorityLevelConfiguration",
            "",
            "high",
            json!({"spec": {"type": "Exempt"}}),
        );
        assert_eq!(told(&world), "Dangling False Found");
        world.settle();
        assert_eq!(told(&world), "nothing new");
    }
}
