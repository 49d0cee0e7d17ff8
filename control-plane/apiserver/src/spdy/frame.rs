//! Frames: eight bytes of head, and what they announce.

use bytes::{BufMut, BytesMut};

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// The longest control frame. The largest there are carry three headers.
const CONTROL_BYTES_MAX: u32 = 16 * 1024;

const VERSION: u16 = 3;

pub const HEAD_BYTES: usize = 8;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Refused = 3,
    Cancel = 5,
}

/// The head of a frame: what follows and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Data { stream: u32, is_last: bool, length: u32 },
    Control { kind: u16, flags: u8, length: u32 },
}

impl Head {
    pub fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Head, Broken> {
        let [a, b, c, d, flags, rest @ ..] = bytes;
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
        if a & 0x80 == 0 {
            return Ok(Head::Data { stream: u32::from_be_bytes([a, b, c, d]), is_last: flags & FIN != 0, length });
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(Broken("a frame of another version of SPDY"));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(Broken("a control frame that is too long"));
        }
        Ok(Head::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// What a client's control frame says.
#[derive(Debug, PartialEq, Eq)]
pub enum Control<'a> {
    Open {
        stream: u32,
        is_last: bool,
        headers: &'a [u8],
    },
    /// More headers of a stream. They are unpacked, because all blocks hang together, and nobody reads them.
    More {
        stream: u32,
        is_last: bool,
        headers: &'a [u8],
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings and windows, which change nothing here, and what later versions may bring.
    Nothing,
}

impl<'a> Control<'a> {
    pub fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Control<'a>, Broken> {
        const SHORT: Broken = Broken("a control frame that ends too early");
        let number = |place: usize| -> Result<u32, Broken> {
            let bytes = payload.get(place..place + 4).and_then(|bytes| bytes.first_chunk::<4>()).ok_or(SHORT)?;
            Ok(u32::from_be_bytes(*bytes))
        };
        let stream = || number(0).map(|stream| stream & 0x7fff_ffff);
        let is_last = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM if flags & UNIDIRECTIONAL != 0 => return Err(Broken("a stream of one direction")),
            SYN_STREAM => Control::Open { stream: stream()?, is_last, headers: payload.get(10..).ok_or(SHORT)? },
            SYN_REPLY | HEADERS => {
                Control::More { stream: stream()?, is_last, headers: payload.get(4..).ok_or(SHORT)? }
            }
            RST_STREAM => Control::Reset { stream: stream()? },
            PING => Control::Ping { id: number(0)? },
            GOAWAY => Control::GoAway,
            SETTINGS | WINDOW_UPDATE => Control::Nothing,
            _ => Control::Nothing,
        })
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    out.reserve(HEAD_BYTES + length);
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | length as u32);
    for part in payload {
        out.put_slice(part);
    }
}

pub fn reply(out: &mut BytesMut, stream: u32, headers: &[u8]) {
    control(out, SYN_REPLY, 0, &[&stream.to_be_bytes(), headers]);
}

pub fn reset(out: &mut BytesMut, stream: u32, status: Status) {
    control(out, RST_STREAM, 0, &[&stream.to_be_bytes(), &(status as u32).to_be_bytes()]);
}

pub fn ping(out: &mut BytesMut, id: u32) {
    control(out, PING, 0, &[&id.to_be_bytes()]);
}

/// `last` is the last stream that was taken.
pub fn go_away(out: &mut BytesMut, last: u32) {
    control(out, GOAWAY, 0, &[&last.to_be_bytes(), &[0; 4]]);
}

pub fn window_update(out: &mut BytesMut, stream: u32, n_bytes: u32) {
    control(out, WINDOW_UPDATE, 0, &[&stream.to_be_bytes(), &n_bytes.to_be_bytes()]);
}

/// The head of a data frame.
pub fn data(out: &mut BytesMut, stream: u32, is_last: bool, length: usize) {
    out.put_u32(stream);
    out.put_u32((u32::from(if is_last { FIN } else { 0 }) << 24) | length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as it is written, read again.
    fn read(bytes: &[u8]) -> (Head, &[u8]) {
        let (head, payload) = bytes.split_first_chunk().unwrap();
        (Head::parse(*head).unwrap(), payload)
    }

    fn written(write: impl Fn(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    }

    #[test]
    fn frames_have_the_bytes_that_the_protocol_says() {
        assert_eq!(written(|out| ping(out, 7)), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(written(|out| data(out, 5, true, 300)), [0, 0, 0, 5, 1, 0, 1, 44]);
        assert_eq!(written(|out| reset(out, 3, Status::Refused)), [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 3]);
        assert_eq!(written(|out| reply(out, 1, b"hh")), [0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, b'h', b'h']);
        let bytes = written(|out| data(out, 5, false, 1 << 20));
        assert_eq!(read(&bytes).0, Head::Data { stream: 5, is_last: false, length: 1 << 20 });
    }

    #[test]
    fn control_frames_are_read() {
        let open = [0x80, 0, 0, 9, 0, 0, 0, 0, 0x40, 0, b'h'];
        assert_eq!(
            Control::parse(SYN_STREAM, FIN, &open),
            Ok(Control::Open { stream: 9, is_last: true, headers: b"h" })
        );
        assert_eq!(Control::parse(PING, 0, &[0, 0, 1, 0]), Ok(Control::Ping { id: 256 }));
        assert_eq!(Control::parse(RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 5]), Ok(Control::Reset { stream: 1 }));
        assert_eq!(Control::parse(99, 0, &[]), Ok(Control::Nothing), "what later versions bring is passed over");
    }

    #[test]
    fn hostile_frames_are_refused() {
        for (what, head) in [
            ("SPDY/2", [0x80, 2, 0, 6, 0, 0, 0, 4]),
            ("a long ping", [0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff]),
            ("HTTP", *b"GET / HT"),
        ] {
            let head = Head::parse(head);
            let is_taken = matches!(head, Ok(Head::Control { .. }));
            assert!(!is_taken, "{what}");
        }
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            for length in 0..4 {
                assert!(Control::parse(kind, 0, &vec![0; length]).is_err(), "{kind} of {length} bytes");
            }
        }
        assert!(Control::parse(SYN_STREAM, 0, &[0; 9]).is_err());
        assert!(Control::parse(SYN_STREAM, UNIDIRECTIONAL, &[0; 20]).is_err());
    }
}
