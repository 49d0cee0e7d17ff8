//! What may be a name: of objects, labels, ports, variables and keys.
//!
//! The sentences are those of Kubernetes, because people search for them and tools compare them. Each function returns
//! all that is wrong with a text as one sentence, ready to follow a field path.

const LABEL_BYTES_MAX: usize = 63;
const SUBDOMAIN_BYTES_MAX: usize = 253;
const PORT_NAME_BYTES_MAX: usize = 15;
const FIELD_MANAGER_BYTES_MAX: usize = 128;

/// A name that is one step of a domain name: namespaces, containers, ports of a service.
pub fn dns_label(text: &str) -> Result<(), String> {
    let mut wrong = too_long(text, LABEL_BYTES_MAX);
    if !is_dns_label(text) {
        wrong.push(DNS_LABEL.to_owned());
    }
    sentence(wrong)
}

/// A name that is a domain name: most objects.
pub fn dns_subdomain(text: &str) -> Result<(), String> {
    let mut wrong = too_long(text, SUBDOMAIN_BYTES_MAX);
    if !text.split('.').all(is_dns_label) {
        wrong.push(DNS_SUBDOMAIN.to_owned());
    }
    sentence(wrong)
}

/// A label that starts with a letter: services.
pub fn dns1035_label(text: &str) -> Result<(), String> {
    let mut wrong = too_long(text, LABEL_BYTES_MAX);
    if !is_dns_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(DNS1035_LABEL.to_owned());
    }
    sentence(wrong)
}

/// A subdomain that may start with `*.`: hosts of an ingress.
pub fn wildcard_dns_subdomain(text: &str) -> Result<(), String> {
    match text.strip_prefix("*.") {
        Some(rest) if rest.split('.').all(is_dns_label) => sentence(too_long(text, SUBDOMAIN_BYTES_MAX)),
        _ => Err(WILDCARD_SUBDOMAIN.to_owned()),
    }
}

/// `name` or `prefix.example.com/name`: keys of labels and annotations, resources, finalizers, condition types.
pub fn qualified_name(text: &str) -> Result<(), String> {
    let mut wrong = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return Err(format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else if let Err(why) = dns_subdomain(prefix) {
                wrong.push(format!("prefix part {why}"));
            }
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else {
        wrong.extend(too_long(name, LABEL_BYTES_MAX).into_iter().map(|why| format!("name part {why}")));
    }
    if !is_label_text(name) {
        wrong.push(format!("name part {QUALIFIED_NAME}"));
    }
    sentence(wrong)
}

/// The key of a label or annotation.
pub fn label_key(text: &str) -> Result<(), String> {
    qualified_name(text)
}

/// The value of a label.
pub fn label_value(text: &str) -> Result<(), String> {
    let mut wrong = too_long(text, LABEL_BYTES_MAX);
    if !text.is_empty() && !is_label_text(text) {
        wrong.push(LABEL_VALUE.to_owned());
    }
    sentence(wrong)
}

/// A name that becomes one step of a path: roles, and kinds whose names come from elsewhere.
pub fn path_segment(text: &str) -> Result<(), String> {
    if text == "." || text == ".." {
        return Err(format!("may not be '{text}'"));
    }
    let mut wrong = Vec::new();
    for refused in ["/", "%"] {
        if text.contains(refused) {
            wrong.push(format!("may not contain '{refused}'"));
        }
    }
    sentence(wrong)
}

/// The name of an environment variable.
pub fn env_var(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must be non-empty".to_owned());
    }
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') {
        return Err("a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned());
    }
    Ok(())
}

/// A key of a ConfigMap or Secret, which may become a file name.
pub fn config_key(text: &str) -> Result<(), String> {
    let mut wrong = too_long(text, SUBDOMAIN_BYTES_MAX);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(legal) {
        wrong.push(CONFIG_KEY.to_owned());
    }
    match text {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => (),
    }
    sentence(wrong)
}

/// The name of a container's port.
pub fn port_name(text: &str) -> Result<(), String> {
    let mut wrong = Vec::new();
    if text.len() > PORT_NAME_BYTES_MAX {
        wrong.push(format!("must be no more than {PORT_NAME_BYTES_MAX} characters"));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    sentence(wrong)
}

/// The name of a field manager, which may be empty where one is derived from the user.
pub fn field_manager(text: &str) -> Result<(), String> {
    if text.len() > FIELD_MANAGER_BYTES_MAX {
        return Err(format!("may not be more than {FIELD_MANAGER_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("should only contain printable characters".to_owned());
    }
    Ok(())
}

/// The number of a port.
pub fn port_number(number: i64) -> Result<(), String> {
    if (1..=65535).contains(&number) { Ok(()) } else { Err("must be between 1 and 65535, inclusive".to_owned()) }
}

fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            inner(first) && inner(last) && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
        }
        _ => false,
    }
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

fn too_long(text: &str, bytes_max: usize) -> Vec<String> {
    if text.len() > bytes_max { vec![format!("must be no more than {bytes_max} bytes")] } else { Vec::new() }
}

fn sentence(wrong: Vec<String>) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
}

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
    subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
    character (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

#[cfg(test)]
mod tests {
    use super::*;

    fn split(check: fn(&str) -> Result<(), String>, texts: &[&'static str]) -> (Vec<&'static str>, Vec<&'static str>) {
        texts.iter().partition(|text| check(text).is_ok())
    }

    #[test]
    fn names_of_every_sort() {
        let long = "a".repeat(64);
        assert_eq!(split(dns_label, &["a", "a-1", "1a", "", "-a", "a-", "A", "a.b"]).0, ["a", "a-1", "1a"]);
        assert!(dns_label(&long).unwrap_err().starts_with("must be no more than 63 bytes"));
        assert_eq!(split(dns_subdomain, &["a", "a.b-c.1", "a..b", ".a", "a_b"]).0, ["a", "a.b-c.1"]);
        assert_eq!(split(dns1035_label, &["a", "a1", "1a"]).0, ["a", "a1"]);
        assert_eq!(split(wildcard_dns_subdomain, &["*.a.b", "a.b", "*.", "*"]).0, ["*.a.b"]);
        assert_eq!(
            split(qualified_name, &["App", "a.b/C_d", "a/b/c", "/a", "a/", "", "a b", "A/b"]).0,
            ["App", "a.b/C_d"]
        );
        assert_eq!(split(label_value, &["", "V-1_x.Y", "-a", "a/b", "a="]).0, ["", "V-1_x.Y"]);
        assert_eq!(split(env_var, &["A_B", "a b", "1", "", "a=b", "ä"]).0, ["A_B", "a b", "1"]);
        assert_eq!(split(config_key, &["a.b", "A_1-", "..a", ".", "..", "a/b", ""]).0, ["a.b", "A_1-"]);
        assert_eq!(split(port_name, &["http", "h2-c", "80", "a--b", "-a", "averylongportname"]).0, ["http", "h2-c"]);
        assert_eq!(split(path_segment, &["system:node", "a/b", "..", "a%b"]).0, ["system:node"]);
        assert!(
            field_manager("kubectl").is_ok()
                && field_manager("a\n").is_err()
                && field_manager(&"x".repeat(129)).is_err()
        );
        assert!(port_number(65535).is_ok() && port_number(0).is_err() && port_number(65536).is_err());
    }

    #[test]
    fn sentences_are_those_people_search_for() {
        assert_eq!(
            dns_label("My").unwrap_err(),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        assert!(qualified_name("a b").unwrap_err().starts_with("name part must consist of alphanumeric characters"));
    }
}
