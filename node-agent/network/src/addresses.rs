//! Which pod has which address: a file a pod, so that a restart gives nobody's address to another.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::files;

/// A range of addresses, such as 10.244.3.0/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub base: Ipv4Addr,
    pub bits: u8,
}

impl Range {
    pub fn parse(text: &str) -> Option<Range> {
        let (base, bits) = text.split_once('/')?;
        let bits: u8 = bits.parse().ok().filter(|bits| *bits <= 32)?;
        let base: Ipv4Addr = base.parse().ok()?;
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        Some(Range { base: (u32::from(base) & mask).into(), bits })
    }

    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.bits)).unwrap_or(u32::MAX)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(u32::from(self.base)) < self.size()
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The addresses in use. The next one given is after the last one given: an address that has just become free is not
/// given again soon, while somebody may still speak to its former owner.
pub struct Addresses {
    directory: PathBuf,
    taken: BTreeMap<String, Ipv4Addr>,
    last: u32,
}

impl Addresses {
    pub fn open(directory: &Path) -> io::Result<Addresses> {
        let mut taken = BTreeMap::new();
        for (pod, bytes) in files::read(directory)? {
            if let Some(address) = str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()) {
                taken.insert(pod, address);
            }
        }
        let last = taken.values().map(|address| u32::from(*address)).max().unwrap_or(0);
        Ok(Addresses { directory: directory.to_owned(), taken, last })
    }

    pub fn of(&self, pod: &str) -> Option<Ipv4Addr> {
        self.taken.get(pod).copied()
    }

    /// The pod's address; a new one if it has none. `None` when all are taken.
    pub fn take(&mut self, pod: &str, range: Range) -> io::Result<Option<Ipv4Addr>> {
        if let Some(address) = self.of(pod).filter(|address| range.contains(*address)) {
            return Ok(Some(address));
        }
        let base = u32::from(range.base);
        // The first is the range itself, the last its broadcast, the second left for the node.
        let usable = 2..range.size().saturating_sub(1);
        let start = if range.contains(self.last.into()) { self.last - base + 1 } else { usable.start };
        let candidates = (start..usable.end).chain(usable.start..start.min(usable.end));
        let free = candidates.filter(|offset| usable.contains(offset)).map(|offset| Ipv4Addr::from(base + offset));
        let Some(address) = free.into_iter().find(|address| !self.taken.values().any(|other| other == address)) else {
            return Ok(None);
        };
        self.keep(pod, address)?;
        self.last = address.into();
        Ok(Some(address))
    }

    pub fn keep(&mut self, pod: &str, address: Ipv4Addr) -> io::Result<()> {
        // Half an address would free one that is in use.
        files::write(&self.directory, pod, address.to_string().as_bytes())?;
        self.taken.insert(pod.to_owned(), address);
        Ok(())
    }

    pub fn release(&mut self, pod: &str) -> io::Result<Option<Ipv4Addr>> {
        let address = self.taken.remove(pod);
        files::remove(&self.directory, pod)?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_and_not_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let range = Range::parse("10.244.1.0/29").unwrap();
        let mut addresses = Addresses::open(directory.path()).unwrap();
        let mut take = |pod: &str| addresses.take(pod, range).unwrap().map(|address| address.octets()[3]);
        assert_eq!([take("a"), take("b"), take("a")], [Some(2), Some(3), Some(2)]);
        addresses.release("a").unwrap();
        let mut addresses = Addresses::open(directory.path()).unwrap();
        let mut take = |pod: &str| addresses.take(pod, range).unwrap().map(|address| address.octets()[3]);
        assert_eq!([take("c"), take("d"), take("e"), take("f"), take("g")], [Some(4), Some(5), Some(6), Some(2), None]);
        assert_eq!(take("b"), Some(3));
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(Range::parse("10.244.3.7/24").unwrap().to_string(), "10.244.3.0/24");
        assert!(Range::parse("10.244.3.0/33").is_none() && Range::parse("x").is_none());
    }
}
