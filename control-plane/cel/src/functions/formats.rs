//! Named formats of texts: `format.dns1123Label().validate("a")`.

use base64::{Engine, engine::general_purpose::STANDARD};
use copepod_api::names;

use super::{Called, time, url};
use crate::{Budget, Value};

const FORMATS: &[&str] = &[
    "byte",
    "date",
    "datetime",
    "dns1035Label",
    "dns1035LabelPrefix",
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "labelValue",
    "qualifiedName",
    "uri",
    "uuid",
];

pub fn call(name: &str, args: &[Value], budget: &mut Budget) -> Called {
    let known = |name: &str| FORMATS.iter().find(|format| **format == name).copied();
    let outcome = match (name, args) {
        ("format.named", [Value::String(name)]) => {
            Ok(Value::Optional(known(name).map(|format| Box::new(Value::Format(format)))))
        }
        ("validate", [Value::Format(format), Value::String(text)]) => budget.walk(text.len()).map(|()| {
            let wrong = validate(format, text, budget).err();
            Value::Optional(wrong.map(|why| Box::new(vec![Value::from(why)].into())))
        }),
        (name, []) => Ok(Value::Format(known(name.strip_prefix("format.")?)?)),
        _ => return None,
    };
    Some(outcome)
}

fn validate(format: &str, text: &str, budget: &mut Budget) -> Result<(), String> {
    let said = |is_right: bool, why: &str| if is_right { Ok(()) } else { Err(why.to_owned()) };
    // A prefix may end where a whole name may not.
    let prefix = text.strip_suffix('-').map_or_else(|| text.to_owned(), |rest| format!("{rest}a"));
    match format {
        "dns1123Label" => names::dns_label(text),
        "dns1123LabelPrefix" => names::dns_label(&prefix),
        "dns1123Subdomain" => names::dns_subdomain(text),
        "dns1123SubdomainPrefix" => names::dns_subdomain(&prefix),
        "dns1035Label" => names::dns1035_label(text),
        "dns1035LabelPrefix" => names::dns1035_label(&prefix),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "uri" => {
            let is_url = url::call("isURL", &[text.into()], budget);
            said(matches!(is_url, Some(Ok(Value::Bool(true)))), "invalid URI")
        }
        "byte" => said(STANDARD.decode(text).is_ok(), "invalid base64"),
        "date" => said(text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10, "invalid date"),
        "datetime" => said(time::timestamp(text).is_ok(), "invalid datetime"),
        _ => said(is_uuid(text), "does not match the UUID format"),
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
