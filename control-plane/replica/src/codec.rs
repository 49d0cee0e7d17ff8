//! How transactions, objects and members are written: small, versioned, and read back with every length checked.

use bytes::Bytes;
use copepod_api::{Body, Expect, Key, Op, Resource, Revision, Timestamp, Txn};

/// The version of entries; a reader refuses what it does not know.
const ENTRY_VERSION: u8 = 1;

/// What an operation takes beside its body: names and numbers.
const OP_BYTES: usize = 128;

/// Bytes that are not what was written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Seven bits a byte, the lowest first.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn time(&mut self, at: Timestamp) {
        self.0.extend_from_slice(&at.as_second().to_le_bytes());
        self.0.extend_from_slice(&at.subsec_nanosecond().to_le_bytes());
    }

    pub fn key(&mut self, key: &Key) {
        self.text(&key.resource.group);
        self.text(&key.resource.plural);
        self.text(key.namespace());
        self.text(key.name());
    }

    pub fn body(&mut self, body: &Body) {
        self.number(body.gap.into());
        self.bytes(&body.bytes);
    }
}

pub struct Reader {
    rest: Bytes,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if self.rest.len() < length {
            return Err(Malformed("length"));
        }
        Ok(self.rest.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?[..].try_into().map_err(|_| Malformed("length"))
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("number"))
    }

    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed("length"))?;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        text(&self.bytes()?).map(str::to_owned)
    }

    pub fn time(&mut self) -> Result<Timestamp, Malformed> {
        let seconds = i64::from_le_bytes(self.array()?);
        let nanoseconds = i32::from_le_bytes(self.array()?);
        Timestamp::new(seconds, nanoseconds).map_err(|_| Malformed("time"))
    }

    pub fn key(&mut self) -> Result<Key, Malformed> {
        let (group, plural) = (self.bytes()?, self.bytes()?);
        let resource = Resource::named(text(&group)?, text(&plural)?);
        let (namespace, name) = (self.bytes()?, self.bytes()?);
        Ok(Key::new(resource, text(&namespace)?, text(&name)?))
    }

    pub fn body(&mut self) -> Result<Body, Malformed> {
        let gap = u32::try_from(self.number()?).map_err(|_| Malformed("gap"))?;
        let bytes = self.bytes()?;
        if gap as usize > bytes.len() {
            return Err(Malformed("gap"));
        }
        Ok(Body { bytes, gap })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("text"))
}

/// A transaction and the leader's time, as an entry of the log carries them.
pub fn write_txn(txn: &Txn, at: Timestamp) -> Vec<u8> {
    // Exact but for the numbers' lengths, so that bodies are copied once.
    let length = |op: &Op| match op {
        Op::Put { body, .. } => OP_BYTES + body.bytes.len(),
        Op::Delete { .. } | Op::Check { .. } => OP_BYTES,
    };
    let mut out = Writer(Vec::with_capacity(OP_BYTES + txn.ops.iter().map(length).sum::<usize>()));
    out.u8(ENTRY_VERSION);
    out.time(at);
    out.number(txn.ops.len() as u64);
    for op in &txn.ops {
        let (tag, body) = match op {
            Op::Put { body, .. } => (0, Some(body)),
            Op::Delete { .. } => (1, None),
            Op::Check { .. } => (2, None),
        };
        out.u8(tag);
        out.key(op.key());
        match op.expect() {
            Expect::Any => out.u8(0),
            Expect::Absent => out.u8(1),
            Expect::Present => out.u8(2),
            Expect::At(revision) => {
                out.u8(3);
                out.number(revision.0);
            }
        }
        if let Some(body) = body {
            out.body(body);
        }
    }
    out.0
}

pub fn read_txn(bytes: Bytes) -> Result<(Txn, Timestamp), Malformed> {
    let mut from = Reader::new(bytes);
    if from.u8()? != ENTRY_VERSION {
        return Err(Malformed("entry: written by a newer version"));
    }
    let at = from.time()?;
    let n_ops = from.number()?;
    let mut ops = Vec::new();
    for _ in 0..n_ops {
        let tag = from.u8()?;
        let key = from.key()?;
        let expect = match from.u8()? {
            0 => Expect::Any,
            1 => Expect::Absent,
            2 => Expect::Present,
            3 => Expect::At(Revision(from.number()?)),
            _ => return Err(Malformed("expectation")),
        };
        ops.push(match tag {
            0 => Op::Put { key, body: from.body()?, expect },
            1 => Op::Delete { key, expect },
            2 => Op::Check { key, expect },
            _ => return Err(Malformed("operation")),
        });
    }
    Ok((Txn { ops }, at))
}

#[cfg(test)]
mod tests {
    use copepod_api::resource::PODS;
    use serde_json::json;

    use super::*;

    fn txn() -> Txn {
        let key = |name: &str| Key::new(PODS, "default", name.to_owned());
        let body = Body::encode(&json!({"metadata": {"name": "a", "uid": "u"}, "spec": {}}));
        Txn {
            ops: vec![
                Op::Put { key: key("a"), body, expect: Expect::Absent },
                Op::Delete { key: key("b"), expect: Expect::At(Revision(300)) },
                Op::Check { key: key("c"), expect: Expect::Present },
            ],
        }
    }

    #[test]
    fn a_transaction_is_read_as_it_was_written() {
        let at = Timestamp::new(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(read_txn(write_txn(&txn(), at).into()), Ok((txn(), at)));
    }

    #[test]
    fn a_transaction_cut_anywhere_is_refused() {
        let bytes = write_txn(&txn(), Timestamp::UNIX_EPOCH);
        for length in 0..bytes.len() {
            assert!(read_txn(bytes[..length].to_vec().into()).is_err(), "{length}");
        }
    }
}
