//! How messages of nodes are written and read: with small buffers.
//!
//! A stream keeps both of its buffers as long as it lives, and a server has one stream for each node. A session is silent
//! most of the time, and what it carries is short or comes in parts; so a kilobyte to begin with, instead of eight,
//! and no more waits in the buffer than a part is long. Tunnels are of the same contract.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

const BUFFER_BYTES: usize = 1024;
const UNSENT_BYTES: usize = 2 * 1024;

/// `E` is sent, `D` is received.
pub struct Small<E, D> {
    kinds: PhantomData<(E, D)>,
}

impl<E, D> Default for Small<E, D> {
    fn default() -> Self {
        Small { kinds: PhantomData }
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, UNSENT_BYTES)
}

impl<E: Message + Send + 'static, D: Message + Default + Send + 'static> Codec for Small<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = <ProstCodec<E, D> as Codec>::Encoder;
    type Decoder = <ProstCodec<E, D> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<E, D>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<E, D>::raw_decoder(settings())
    }
}
