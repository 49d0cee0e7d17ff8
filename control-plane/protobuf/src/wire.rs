//! Protobuf's wire format: tags, numbers, lengths.

use copepod_api::{Status, StatusResult};

use super::MEDIA_TYPE;

/// What stands in a field, as far as the wire format tells.
#[derive(Clone, Copy)]
pub enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub fn bytes(self) -> StatusResult<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Number(_) => Err(malformed("a number stands where a text or a message should")),
        }
    }

    pub fn number(self) -> StatusResult<u64> {
        match self {
            Wire::Number(number) => Ok(number),
            Wire::Bytes(_) => Err(malformed("bytes stand where a number should")),
        }
    }
}

/// The fields of a message in the order in which they were written.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Iterator for Reader<'a> {
    type Item = StatusResult<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> StatusResult<(u64, Wire<'a>)> {
        let tag = varint(&mut self.0)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut self.0)?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Wire::Bytes(self.take(4)?),
            other => return Err(malformed(&format!("there is no wire type {other}"))),
        };
        Ok((tag >> 3, wire))
    }

    fn take(&mut self, length: usize) -> StatusResult<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }
}

pub fn varint(bytes: &mut &[u8]) -> StatusResult<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| malformed("it ends too early"))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number has more than 64 bits"))
}

pub fn text(bytes: &[u8]) -> StatusResult<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a text is not UTF-8"))
}

pub fn malformed(why: &str) -> Status {
    Status::bad_request(format!("the body cannot be read as {MEDIA_TYPE}: {why}"))
}

pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(out, field << 3);
    put_varint(out, number);
}

pub fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_head(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// What stands before a text or message of this length.
pub fn put_head(out: &mut Vec<u8>, field: u64, length: usize) {
    put_varint(out, field << 3 | 2);
    put_varint(out, length as u64);
}

pub fn put_double(out: &mut Vec<u8>, field: u64, number: f64) {
    put_varint(out, field << 3 | 1);
    out.extend_from_slice(&number.to_le_bytes());
}

/// A message whose length is known when it is written: it is put in front afterwards.
pub fn put_message(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    put_varint(out, field << 3 | 2);
    let start = out.len();
    write(out);
    let mut length = Vec::with_capacity(5);
    put_varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
}
