//! Header blocks: pairs of names and values, compressed over all blocks of one direction of a connection.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::Broken;

/// The longest block when it is unpacked. Kubernetes' streams have three short headers.
const BLOCK_BYTES_MAX: usize = 16 * 1024;

/// How much room is made at once.
const STEP_BYTES: usize = 1024;

/// Words that the compression knows from the start, each with its length before it…
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// …and a text without lengths.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Names in lower case.
pub type Headers = BTreeMap<String, String>;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS {
        bytes.extend((word.len() as u32).to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    bytes.extend(TEXT.as_bytes());
    bytes
}

/// Packs the blocks of one direction.
pub struct Packer(Compress);

impl Packer {
    pub fn new() -> Result<Packer, Broken> {
        let mut packer = Compress::new(Compression::fast(), true);
        packer.set_dictionary(&dictionary()).map_err(|_| Broken("the dictionary is not taken"))?;
        Ok(Packer(packer))
    }

    pub fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>, Broken> {
        let mut plain = Vec::new();
        plain.extend((headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let (mut packed, mut rest) = (Vec::with_capacity(STEP_BYTES), plain.as_slice());
        loop {
            packed.reserve(STEP_BYTES);
            let before = self.0.total_in();
            let done = self.0.compress_vec(rest, &mut packed, FlushCompress::Sync);
            done.map_err(|_| Broken("headers cannot be packed"))?;
            rest = &rest[(self.0.total_in() - before) as usize..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
        }
    }
}

/// Unpacks the blocks of one direction.
pub struct Unpacker(Decompress);

impl Unpacker {
    pub fn new() -> Unpacker {
        Unpacker(Decompress::new(true))
    }

    pub fn unpack(&mut self, packed: &[u8]) -> Result<Headers, Broken> {
        let broken = |_| Broken("a header block that cannot be unpacked");
        let (mut plain, mut rest) = (Vec::with_capacity(STEP_BYTES), packed);
        loop {
            plain.reserve(STEP_BYTES);
            let (read, written) = (self.0.total_in(), plain.len());
            let status = match self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(broken)?;
                    Status::Ok
                }
                other => other.map_err(broken)?,
            };
            let n_read = (self.0.total_in() - read) as usize;
            rest = &rest[n_read..];
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(Broken("a header block that is too long"));
            }
            let is_stuck = n_read == 0 && plain.len() == written && status != Status::Ok;
            if is_stuck || (rest.is_empty() && plain.len() < plain.capacity()) {
                return parse(&plain);
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, Broken> {
    const SHORT: Broken = Broken("a header block that ends too early");
    let number = |bytes: &mut &[u8]| -> Result<usize, Broken> {
        let (first, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
        *bytes = rest;
        Ok(u32::from_be_bytes(*first) as usize)
    };
    let n_pairs = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..n_pairs {
        let mut text = || -> Result<String, Broken> {
            let length = number(&mut plain)?;
            let (first, rest) = plain.split_at_checked(length).ok_or(SHORT)?;
            plain = rest;
            String::from_utf8(first.to_vec()).map_err(|_| Broken("a header that is no text"))
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_that_everybody_has() {
        // Adler-32, which stands in the head of every first block.
        let (a, b) = dictionary().iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (a + b) % 65_521)
        });
        assert_eq!((dictionary().len(), (b << 16) | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_are_unpacked_in_the_order_in_which_they_were_packed() {
        let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::new());
        let long = "x".repeat(9_000);
        for block in [
            headers(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]),
            headers(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("long", &long)]),
            headers(&[("streamtype", "stdin")]),
        ] {
            let packed = packer.pack(&block).unwrap();
            assert_eq!(unpacker.unpack(&packed).unwrap(), block);
        }
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let pack = |plain: &[u8]| {
            let mut packer = Packer::new().unwrap();
            let mut packed = Vec::with_capacity(plain.len() + STEP_BYTES);
            packer.0.compress_vec(plain, &mut packed, FlushCompress::Sync).unwrap();
            packed
        };
        let bomb = pack(&vec![0; 1 << 20]);
        assert!(bomb.len() < 16 << 10);
        for (what, block) in [
            ("nothing", Vec::new()),
            ("noise", vec![0xff; 64]),
            ("unpacks to megabytes", bomb),
            ("more pairs than there are", pack(&[0xff, 0xff, 0xff, 0xff])),
            ("a name longer than the block", pack(&[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, b'a'])),
            ("no text", pack(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0])),
        ] {
            assert!(Unpacker::new().unpack(&block).is_err(), "{what}");
        }
    }
}
