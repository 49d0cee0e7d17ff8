//! Messages of the kernel's netfilter, as it has them on its sockets (linux/netfilter/nfnetlink.h).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// Kinds of messages that belong to netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const HEADER: usize = 16;
/// Family, version and a number that most leave at zero.
const GENERIC: usize = 4;
const IPV4: u8 = 2;

/// Attributes with others in them say so.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

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
        self.send(kind, REQUEST | ACK, attributes)?;
        self.answers(|_| ())
    }

    /// All there is of something; `each` is given attributes.
    pub fn dump(&mut self, kind: u16, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, REQUEST | DUMP, &[])?;
        self.answers(each)
    }

    fn send(&mut self, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let length = u32::try_from(HEADER + GENERIC + attributes.len()).map_err(io::Error::other)?;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.number.to_ne_bytes());
        message.extend([0; 4]);
        message.extend([IPV4, 0, 0, 0]);
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Up to the one that says that it was the last.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let length = word(0) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let Some(content) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
                let is_ours = word(8) == self.number;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                match kind {
                    _ if !is_ours => {}
                    DONE => return Ok(()),
                    ERROR => {
                        let code = content.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(content.get(GENERIC..).unwrap_or_default()),
                }
            }
        }
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
