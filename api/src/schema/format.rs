//! Formats of texts: `ipv4`, `uuid`, `date`. Those that nobody knows are no rule, as in Kubernetes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::{Span, civil::Date};

use crate::names;

#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub name: &'static str,
    holds: fn(&str) -> bool,
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        self.name == other.name
    }
}

const ALL: &[Format] = &[
    Format { name: "bsonobjectid", holds: |text| text.len() == 24 && is_hex(text) },
    Format { name: "cidr", holds: is_cidr },
    Format { name: "date", holds: |text| text.len() == 10 && text.parse::<Date>().is_ok() },
    Format { name: "duration", holds: is_duration },
    Format { name: "email", holds: is_email },
    Format { name: "hexcolor", holds: is_hex_colour },
    Format { name: "hostname", holds: |text| names::dns_subdomain(&text.to_lowercase()).is_ok() },
    Format { name: "ipv4", holds: |text| text.parse::<Ipv4Addr>().is_ok() },
    Format { name: "ipv6", holds: |text| text.parse::<Ipv6Addr>().is_ok() },
    Format { name: "mac", holds: is_mac },
    Format { name: "uri", holds: is_uri },
    Format { name: "uuid", holds: |text| is_uuid(text, None) },
    Format { name: "uuid3", holds: |text| is_uuid(text, Some('3')) },
    Format { name: "uuid4", holds: |text| is_uuid(text, Some('4')) },
    Format { name: "uuid5", holds: |text| is_uuid(text, Some('5')) },
];

impl Format {
    pub fn named(name: &str) -> Option<Format> {
        ALL.iter().find(|format| format.name == name).copied()
    }

    pub fn holds(&self, text: &str) -> bool {
        (self.holds)(text)
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let is_short = bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
    match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => is_short && bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => is_short && bits <= 128,
        _ => false,
    }
}

/// As Go writes them (`1h30m`), or in words (`3 days`).
fn is_duration(text: &str) -> bool {
    !text.trim().is_empty() && !text.starts_with(['P', 'p']) && text.parse::<Span>().is_ok()
}

fn is_email(text: &str) -> bool {
    let Some((name, host)) = text.rsplit_once('@') else { return false };
    !name.is_empty() && !name.contains([' ', '@', '<', '>']) && names::dns_subdomain(&host.to_lowercase()).is_ok()
}

fn is_hex_colour(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    [3, 6].contains(&digits.len()) && is_hex(digits)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = text.split(separator).collect();
    [6, 8].contains(&parts.len()) && parts.iter().all(|part| part.len() == 2 && is_hex(part))
}

/// With a scheme, or the path of one's own host.
fn is_uri(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    !text.contains([' ', '\n', '\t'])
        && (text.starts_with('/')
            || text.split_once(':').is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty()))
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let bare: String = text.chars().filter(|letter| *letter != '-').collect();
    let has_dashes = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
    let is_shaped = bare.len() == 32 && is_hex(&bare) && (has_dashes || text.len() == 32);
    is_shaped && version.is_none_or(|version| bare.chars().nth(12) == Some(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_and_what_does_not() {
        let cases = [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("cidr", "fd00::/8", "fd00::/+8"),
            ("mac", "00:11:22:33:44:55", "00:11:22:33:44"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("date", "2026-11-23", "2026-13-23"),
            ("duration", "1h30m", "soon"),
            ("email", "mia@example.com", "mia"),
            ("hostname", "www.example.com", "www_example"),
            ("uri", "https://example.com/x", "nowhere at all"),
            ("hexcolor", "#ff00aa", "#ff00a"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ];
        for (name, good, bad) in cases {
            let format = Format::named(name).unwrap();
            assert!(format.holds(good), "{name}: {good}");
            assert!(!format.holds(bad), "{name}: {bad}");
        }
        assert!(Format::named("whatever").is_none() && Format::named("int32").is_none());
        assert!(!Format::named("uuid").unwrap().holds("äääääääääääääääääääääääääääääääääääääääääääääääääääääää"));
    }
}
