//! The name service of the cluster, answered from memory (specification: github.com/kubernetes/dns, dns-schema 1.1.0).
//!
//! Names below `cluster.local` never leave the node: what services there are is known here (`names`). Everything else is
//! asked of the node's own name servers, and kept for as long as they say (`upstream`). A pod that looks for `web` or
//! `example.com` asks for up to five names one after the other; as its search path is known here (`search`), the first
//! of those questions is answered with what the last would give. `server` holds the sockets.

mod names;
mod search;
mod server;
mod upstream;

pub use names::Names;
pub use search::Search;
pub use server::Server;

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, rdata::SOA},
};

use crate::CLUSTER_DOMAIN;

/// How long clients may keep what is answered from memory: short, so that they see a change soon.
const TTL_SECONDS: u32 = 5;

/// An answer without its question.
#[derive(Clone, Debug, PartialEq)]
struct Reply {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    /// Said by whom the name belongs to.
    authoritative: bool,
    /// There is more than what was received.
    truncated: bool,
}

impl Reply {
    fn of(code: ResponseCode) -> Reply {
        Reply {
            code,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            authoritative: false,
            truncated: false,
        }
    }

    /// That one of our names does not exist (NXDOMAIN), or not with such records (NOERROR). Who keeps that needs the
    /// record of the zone to know for how long (RFC 2308).
    fn without_records(code: ResponseCode) -> Reply {
        let authorities = zone().into_iter().collect();
        Reply { authorities, authoritative: true, ..Reply::of(code) }
    }
}

/// The record of the zone itself. Nobody copies the zone, so its number says nothing and its times are customary.
fn zone() -> Option<Record> {
    let server = absolute(&format!("ns.dns.{CLUSTER_DOMAIN}"))?;
    let contact = absolute(&format!("hostmaster.{CLUSTER_DOMAIN}"))?;
    let data = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(absolute(CLUSTER_DOMAIN)?, TTL_SECONDS, RData::SOA(data)))
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}
