//! Messages of the kernel's netfilter, as it has them on its sockets (linux/netfilter/nfnetlink.h).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt,
        socket, sockopt,
    },
};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Kinds of messages that belong to netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A transaction of nftables is between these two.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// What messages to nftables have before their own number, and those about connections.
pub const NFTABLES: u16 = 10 << 8;
pub const CONNECTIONS: u16 = 1 << 8;

const HEADER: usize = 16;
/// Family, version and a number that most leave at zero.
const GENERIC: usize = 4;
const IPV4: u8 = 2;

/// Attributes with others in them say so.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// What goes to the kernel at once without asking for more room.
const SENT_AT_ONCE: usize = 64 * 1024;

/// What the kernel gives at a time is no longer than this.
const ANSWER: usize = 256 * 1024;

/// An attribute: length, kind, content, and nothing up to a multiple of four.
pub fn attribute(into: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(content);
    into.resize(into.len().next_multiple_of(4), 0);
}

pub fn nested(into: &mut Vec<u8>, kind: u16, content: &[u8]) {
    attribute(into, kind | NESTED, content);
}

/// The attributes of a message, with their kinds. What is cut short ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// The content of the first attribute of this kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

pub struct Socket {
    socket: OwnedFd,
    number: u32,
}

impl Socket {
    pub fn open() -> io::Result<Socket> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Socket { socket, number: 0 })
    }

    /// Does one thing, and returns when the kernel has done it.
    pub fn order(&mut self, kind: u16, attributes: &[u8]) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut message = Vec::new();
        write(&mut message, kind, REQUEST | ACK, self.number, [IPV4, 0, 0, 0], attributes);
        self.exchange(&message, self.number, |_| ())
    }

    /// All there is of something; `each` is given attributes.
    pub fn dump(&mut self, kind: u16, attributes: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut message = Vec::new();
        write(&mut message, kind, REQUEST | DUMP, self.number, [IPV4, 0, 0, 0], attributes);
        self.exchange(&message, self.number, each)
    }

    /// Sends, and reads up to the answer to the message with the number `last`. The kernel does what it is told while it
    /// takes it, so its answers are there as soon as a message is sent: nothing waits here.
    fn exchange(&mut self, messages: &[u8], last: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if messages.len() > SENT_AT_ONCE {
            setsockopt(&self.socket, sockopt::SndBufForce, &(messages.len() + SENT_AT_ONCE))?;
        }
        send(self.socket.as_raw_fd(), messages, MsgFlags::empty())?;
        let mut failed = None;
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // A transaction that was refused as such has no answer to its last message.
                Err(Errno::EAGAIN) => return Err(failed.unwrap_or(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let (length, number) = (word(0) as usize, word(8));
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let Some(content) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                match kind {
                    DONE => return failed.map_or(Ok(()), Err),
                    ERROR => {
                        let code = content.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        if code != 0 {
                            failed.get_or_insert(io::Error::from_raw_os_error(-code));
                        }
                        if number == last {
                            return failed.map_or(Ok(()), Err);
                        }
                    }
                    _ => each(content.get(GENERIC..).unwrap_or_default()),
                }
            }
        }
    }
}

fn write(into: &mut Vec<u8>, kind: u16, flags: u16, number: u32, generic: [u8; GENERIC], attributes: &[u8]) {
    let length = u32::try_from(HEADER + GENERIC + attributes.len()).unwrap_or(u32::MAX);
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(flags.to_ne_bytes());
    into.extend(number.to_ne_bytes());
    into.extend([0; 4]);
    into.extend(generic);
    into.extend(attributes);
}

/// A transaction of nftables: all of it, or nothing.
pub struct Batch {
    messages: Vec<u8>,
    number: u32,
    /// Where the flags of the last message are.
    last_flags: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        let mut batch = Batch { messages: Vec::new(), number: 0, last_flags: 0 };
        batch.boundary(BEGIN);
        batch
    }
}

impl Batch {
    fn boundary(&mut self, kind: u16) {
        let [high, low] = (NFTABLES >> 8).to_be_bytes();
        write(&mut self.messages, kind, REQUEST, self.number, [0, 0, high, low], &[]);
    }

    fn add(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.number += 1;
        self.last_flags = self.messages.len() + 6;
        write(&mut self.messages, NFTABLES | kind, REQUEST | flags, self.number, [IPV4, 0, 0, 0], attributes);
    }

    /// The number of the next message, which no other of this transaction has.
    pub fn next(&self) -> u32 {
        self.number + 1
    }

    /// Makes something; what is there already and the same is as good.
    pub fn create(&mut self, kind: u16, attributes: &[u8]) {
        self.add(kind, CREATE, attributes);
    }

    pub fn append(&mut self, kind: u16, attributes: &[u8]) {
        self.add(kind, CREATE | APPEND, attributes);
    }

    pub fn delete(&mut self, kind: u16, attributes: &[u8]) {
        self.add(kind, 0, attributes);
    }

    pub fn is_empty(&self) -> bool {
        self.number == 0
    }

    /// Nothing to say is no transaction.
    pub fn commit(mut self) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let last = self.number;
        // Errors are told of every message, and success of the last one only.
        let flags = &mut self.messages[self.last_flags..][..2];
        let asked = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
        flags.copy_from_slice(&asked.to_ne_bytes());
        self.boundary(END);
        Socket::open()?.exchange(&self.messages, last, |_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written_and_damage_ends_them() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, b"abc");
        nested(&mut bytes, 2, b"defg");
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, b"abc".as_slice()), (2, b"defg")]);
        assert_eq!(find(&bytes, 2), Some(b"defg".as_slice()));
        assert_eq!(attributes(&bytes[..9]).count(), 1);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
