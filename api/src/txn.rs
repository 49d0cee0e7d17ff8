//! A transaction: changes that happen together or not at all.

use serde::{Deserialize, Serialize};

use crate::{Body, Key, Revision};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Txn {
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or replaces an object.
    Put {
        key: Key,
        body: Body,
        expect: Expect,
    },
    Delete {
        key: Key,
        expect: Expect,
    },
    /// Changes nothing, but refuses the transaction where the expectation fails.
    Check {
        key: Key,
        expect: Expect,
    },
}

/// What must hold of an object for the transaction to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    Any,
    Absent,
    Present,
    At(Revision),
}

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. } => *expect,
        }
    }
}
