//! Addresses and ranges of them.

use std::{fmt, net::IpAddr};

use super::Called;
use crate::{Budget, Fault, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

impl Cidr {
    fn parse(text: &str) -> Option<Cidr> {
        let (ip, length) = text.split_once('/')?;
        let (ip, length) = (address(ip)?, length.parse().ok().filter(|_| length.len() <= 3)?);
        let is_plain = length <= bits(&ip) && text.split_once('/').is_some_and(|(_, text)| !text.starts_with('+'));
        is_plain.then_some(Cidr { ip, length })
    }

    fn masked(self) -> Cidr {
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                IpAddr::V4((u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                IpAddr::V6((u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)).into())
            }
        };
        Cidr { ip, ..self }
    }

    fn contains(self, ip: IpAddr) -> bool {
        bits(&ip) == bits(&self.ip) && Cidr { ip, ..self }.masked().ip == self.masked().ip
    }

    fn covers(self, other: Cidr) -> bool {
        other.length >= self.length && self.contains(other.masked().ip)
    }
}

fn bits(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// No zones, and no IPv4 in the clothes of IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    let is_mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    (!is_mapped).then_some(ip)
}

fn parsed(text: &str) -> Result<IpAddr, Fault> {
    address(text).ok_or_else(|| Fault::new(format!("IP Address {text:?} parse error during conversion from string")))
}

fn range(text: &str) -> Result<Cidr, Fault> {
    Cidr::parse(text)
        .ok_or_else(|| Fault::new(format!("network address parse error during conversion from string: {text:?}")))
}

pub fn call(name: &str, args: &[Value], _: &mut Budget) -> Called {
    let outcome = match (name, args) {
        ("ip", [Value::String(text)]) => parsed(text).map(Value::Ip),
        ("isIP", [Value::String(text)]) => Ok(address(text).is_some().into()),
        ("ip.isCanonical", [Value::String(text)]) => parsed(text).map(|ip| (ip.to_string() == **text).into()),
        ("family", [Value::Ip(ip)]) => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Value::Ip(ip)]) => Ok(ip.is_unspecified().into()),
        ("isLoopback", [Value::Ip(ip)]) => Ok(ip.is_loopback().into()),
        ("isLinkLocalMulticast", [Value::Ip(ip)]) => Ok(is_link_local_multicast(ip).into()),
        ("isLinkLocalUnicast", [Value::Ip(ip)]) => Ok(is_link_local(ip).into()),
        ("isGlobalUnicast", [Value::Ip(ip)]) => {
            let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
            let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip);
            Ok((!is_special && !is_broadcast).into())
        }
        ("cidr", [Value::String(text)]) => range(text).map(Value::Cidr),
        ("isCIDR", [Value::String(text)]) => Ok(Cidr::parse(text).is_some().into()),
        ("containsIP", [Value::Cidr(own), Value::Ip(ip)]) => Ok(own.contains(*ip).into()),
        ("containsIP", [Value::Cidr(own), Value::String(text)]) => parsed(text).map(|ip| own.contains(ip).into()),
        ("containsCIDR", [Value::Cidr(own), Value::Cidr(other)]) => Ok(own.covers(*other).into()),
        ("containsCIDR", [Value::Cidr(own), Value::String(text)]) => range(text).map(|other| own.covers(other).into()),
        ("ip", [Value::Cidr(own)]) => Ok(Value::Ip(own.ip)),
        ("masked", [Value::Cidr(own)]) => Ok(Value::Cidr(own.masked())),
        ("prefixLength", [Value::Cidr(own)]) => Ok(Value::Int(own.length.into())),
        _ => return None,
    };
    Some(outcome)
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}
