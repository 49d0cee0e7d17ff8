//! A client's side, written by hand.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    Session,
    frame::{self, HEAD_BYTES, Head},
    headers::{Headers, Packer},
};

struct Client {
    connection: DuplexStream,
    packer: Packer,
}

fn connected() -> (Client, Session) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (Client { connection: near, packer: Packer::new().unwrap() }, Session::new(far).unwrap())
}

impl Client {
    async fn open(&mut self, stream: u32, kind: &str) {
        let headers = Headers::from([("streamtype".to_owned(), kind.to_owned())]);
        let block = self.packer.pack(&headers).unwrap();
        let mut bytes = vec![0x80, 3, 0, 1, 0, 0, 0, 10 + block.len() as u8];
        bytes.extend(stream.to_be_bytes());
        bytes.extend([0; 6]);
        bytes.extend(block);
        self.connection.write_all(&bytes).await.unwrap();
    }

    async fn say(&mut self, stream: u32, text: &[u8], is_last: bool) {
        let mut head = BytesMut::new();
        frame::data(&mut head, stream, is_last, text.len());
        self.connection.write_all(&head).await.unwrap();
        self.connection.write_all(text).await.unwrap();
    }

    /// The next frame that says something: windows are passed over.
    async fn hear(&mut self) -> Option<(Head, Vec<u8>)> {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.connection.read_exact(&mut head).await.ok()?;
            let head = Head::parse(head).unwrap();
            let (Head::Data { length, .. } | Head::Control { length, .. }) = head;
            let mut payload = vec![0; length as usize];
            self.connection.read_exact(&mut payload).await.ok()?;
            if !matches!(head, Head::Control { kind: 9, .. }) {
                return Some((head, payload));
            }
        }
    }
}

fn control(head: Head) -> Option<u16> {
    match head {
        Head::Control { kind, .. } => Some(kind),
        Head::Data { .. } => None,
    }
}

#[tokio::test]
async fn a_stream_is_answered_and_carries_bytes_both_ways() {
    let (mut client, mut session) = connected();
    client.open(1, "stdin").await;
    // Longer than a piece, so that it comes in several.
    let long = vec![b'x'; 40_000];
    client.say(1, &long, true).await;
    let mut stream = session.accept().await.unwrap();
    assert_eq!(stream.header("streamtype"), "stdin");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert!(heard == long);

    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(control(client.hear().await.unwrap().0), Some(2), "the reply");
    assert_eq!(client.hear().await.unwrap(), (Head::Data { stream: 1, is_last: false, length: 5 }, b"hello".to_vec()));
    assert_eq!(client.hear().await.unwrap().0, Head::Data { stream: 1, is_last: true, length: 0 });
}

#[tokio::test]
async fn a_stream_that_nobody_wants_is_reset() {
    let (mut client, mut session) = connected();
    client.open(1, "nonsense").await;
    drop(session.accept().await);
    assert_eq!(control(client.hear().await.unwrap().0), Some(2));
    assert_eq!(control(client.hear().await.unwrap().0), Some(3));
    // The connection goes on.
    client.open(3, "stdin").await;
    assert_eq!(session.accept().await.unwrap().id(), 3);
}

#[tokio::test]
async fn pings_are_answered_and_goodbye_is_the_last_word() {
    let (mut client, session) = connected();
    client.connection.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]).await.unwrap();
    assert_eq!(client.hear().await.unwrap().1, [0, 0, 0, 7]);
    let closing = tokio::spawn(session.close());
    assert_eq!(control(client.hear().await.unwrap().0), Some(7));
    assert_eq!(client.hear().await, None);
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_cut_off() {
    let even = [0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
    for bytes in [b"GET / HTTP/1.1\r\n\r\n and more of it".as_slice(), &even, &[0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff]] {
        let (mut client, mut session) = connected();
        client.connection.write_all(bytes).await.unwrap();
        // What reads like data of a stream that there is not is waited for, and nothing comes of it.
        client.connection.shutdown().await.unwrap();
        assert!(session.accept().await.is_none(), "{bytes:?}");
    }
}

#[tokio::test]
async fn more_streams_than_there_is_room_for_are_refused() {
    let (mut client, mut session) = connected();
    let mut held = Vec::new();
    for place in 0..257 {
        client.open(2 * place + 1, "data").await;
        if place < 256 {
            held.push(session.accept().await.unwrap());
        }
    }
    let mut n_refused = 0;
    for _ in 0..257 {
        n_refused += u32::from(control(client.hear().await.unwrap().0) == Some(3));
    }
    assert_eq!((n_refused, held.len()), (1, 256));
}
