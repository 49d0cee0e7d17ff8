//! Why a node does not take a pod, and how that is told for many nodes at once.

use std::{borrow::Cow, collections::BTreeMap};

/// One reason of one node. Equal texts are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    pub text: Cow<'static, str>,
    /// What is missing on this very node.
    pub detail: Option<String>,
}

impl Reason {
    pub const fn plain(text: &'static str) -> Reason {
        Reason { text: Cow::Borrowed(text), detail: None }
    }

    pub fn told(text: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Reason {
        Reason { text: text.into(), detail: Some(detail.into()) }
    }
}

/// Where the advice begins.
const NEAREST: &str = " Nearest is ";

/// A sentence without its advice. The free room of the nearest node changes with every pod that comes or goes anywhere,
/// and that alone is not worth a write to every pod that waits.
pub fn gist(sentence: &str) -> &str {
    sentence.split(NEAREST).next().unwrap_or_default()
}

pub type Check = Result<(), Vec<Reason>>;

/// `0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu.`, and which node is nearest.
pub fn sentence(refusals: &[(String, Vec<Reason>)]) -> String {
    if refusals.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.iter().flat_map(|(_, reasons)| reasons) {
        *counts.entry(&reason.text).or_insert(0) += 1;
    }
    let mut groups: Vec<String> = counts.iter().map(|(text, count)| format!("{count} {text}")).collect();
    groups.sort();
    let mut sentence = format!("0/{} nodes are available: {}.", refusals.len(), groups.join(", "));
    // The smallest change that would help: the node that lacks the fewest things, where it can say what.
    let nearest = refusals
        .iter()
        .filter(|(_, reasons)| reasons.iter().all(|reason| reason.detail.is_some()))
        .min_by_key(|(_, reasons)| reasons.len());
    if let Some((node, reasons)) = nearest {
        let details: Vec<&str> = reasons.iter().filter_map(|reason| reason.detail.as_deref()).collect();
        sentence.push_str(&format!("{NEAREST}{node}: {}.", details.join(" and ")));
    }
    sentence
}
