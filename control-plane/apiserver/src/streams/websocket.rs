//! WebSocket, as Kubernetes uses it: a message is one byte that names a channel and what is said on it; in the base64
//! variants a digit, and the rest encoded.

use axum::extract::ws::{Message, WebSocketUpgrade};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use copepod_api::{Status, StatusResult};
use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};

use super::Frame;

/// The longest message. Clients send a few tens of kilobytes at once; what is longer has no reason.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The protocols of remote commands, the best first.
pub const REMOTE_COMMAND: &[&str] = &[
    "v5.channel.k8s.io",
    "v5.base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// SPDY frames inside of WebSocket messages.
pub const SPDY_INSIDE: &str = "SPDY/3.1+portforward.k8s.io";

/// The protocols of connections to ports, the best first.
pub const PORT_FORWARD: &[&str] = &[SPDY_INSIDE, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// In v5: the channel that follows says nothing more.
const CLOSE: u8 = 255;

/// Agrees on a protocol. A client that names none speaks the oldest.
pub fn choose(
    upgrade: WebSocketUpgrade,
    headers: &HeaderMap,
    ours: &'static [&'static str],
) -> StatusResult<WebSocketUpgrade> {
    let upgrade = upgrade.protocols(ours.iter().copied()).max_message_size(MESSAGE_BYTES_MAX);
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) && upgrade.selected_protocol().is_none() {
        return Err(Status::bad_request(format!(
            "none of the protocols is supported; choose one of {}",
            ours.join(", ")
        )));
    }
    Ok(upgrade)
}

/// How frames are written as messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    is_base64: bool,
    /// Before 4, errors are text.
    pub version: u8,
}

impl Dialect {
    pub fn named(protocol: &str) -> Dialect {
        let version = match protocol.split('.').next() {
            Some("v5") => 5,
            Some("v4") => 4,
            _ => 1,
        };
        Dialect { is_base64: protocol.contains("base64"), version }
    }

    pub fn write(self, frame: &Frame) -> Message {
        if self.is_base64 {
            let mut text = String::with_capacity(1 + frame.data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + frame.channel));
            BASE64.encode_string(&frame.data, &mut text);
            return Message::Text(text.into());
        }
        let mut bytes = BytesMut::with_capacity(1 + frame.data.len());
        bytes.extend_from_slice(&[frame.channel]);
        bytes.extend_from_slice(&frame.data);
        Message::Binary(bytes.freeze())
    }

    /// What a message says; nothing for those that belong to WebSocket itself.
    pub fn read(self, message: Message) -> Result<Option<Said>, &'static str> {
        let bytes = match message {
            Message::Binary(bytes) if !self.is_base64 => bytes,
            Message::Text(text) if self.is_base64 => Bytes::from(text),
            // What some clients send in the other form is the same bytes.
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(_) | Message::Pong(_) => return Ok(None),
            Message::Close(_) => return Ok(Some(Said::Everything)),
        };
        let Some(first) = bytes.first().copied() else { return Err("a message without a channel") };
        let data = bytes.slice(1..);
        if self.is_base64 {
            let channel =
                first.checked_sub(b'0').filter(|channel| *channel < 10).ok_or("a channel that is no digit")?;
            let data = BASE64.decode(&data).map_err(|_| "a message that is not base64")?;
            return Ok(Some(Said::Piece(Frame { channel, data: data.into() })));
        }
        if self.version >= 5 && first == CLOSE {
            let [channel] = data[..] else { return Err("an end of no channel") };
            return Ok(Some(Said::End(channel)));
        }
        Ok(Some(Said::Piece(Frame { channel: first, data })))
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Piece(Frame),
    /// Nothing more on this channel.
    End(u8),
    /// Nothing more at all.
    Everything,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u8, data: &'static str) -> Frame {
        Frame { channel, data: Bytes::from_static(data.as_bytes()) }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        for protocol in REMOTE_COMMAND {
            let dialect = Dialect::named(protocol);
            for frame in [frame(1, "some output\n"), frame(4, ""), frame(3, "é")] {
                assert_eq!(dialect.read(dialect.write(&frame)), Ok(Some(Said::Piece(frame))), "{protocol}");
            }
        }
        let written = Dialect::named("base64.channel.k8s.io").write(&frame(1, "hello"));
        assert_eq!(written, Message::Text("1aGVsbG8=".into()));
    }

    #[test]
    fn only_version_five_can_end_one_channel() {
        let message = || Message::Binary(Bytes::from_static(&[255, 0]));
        assert_eq!(Dialect::named("v5.channel.k8s.io").read(message()), Ok(Some(Said::End(0))));
        assert_eq!(
            Dialect::named("v4.channel.k8s.io").read(message()),
            Ok(Some(Said::Piece(Frame { channel: 255, data: Bytes::from_static(&[0]) })))
        );
    }

    #[test]
    fn messages_that_mean_nothing_are_refused() {
        let (plain, encoded) = (Dialect::named("v5.channel.k8s.io"), Dialect::named("v4.base64.channel.k8s.io"));
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        assert!(plain.read(binary(&[])).is_err());
        assert!(plain.read(binary(&[255])).is_err());
        assert!(plain.read(binary(&[255, 0, 0])).is_err());
        assert!(encoded.read(Message::Text("".into())).is_err());
        assert!(encoded.read(Message::Text("xaGVsbG8=".into())).is_err());
        assert!(encoded.read(Message::Text("0?".into())).is_err());
        assert_eq!(plain.read(Message::Ping(Bytes::new())), Ok(None));
    }
}
