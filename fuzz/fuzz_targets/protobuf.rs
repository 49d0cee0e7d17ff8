//! Protobuf becomes JSON or is refused; what it became is written and read again as the same. The first byte says as
//! which kind the rest is read; without that, hardly any input would get past the envelope.
#![no_main]

use copepod_protobuf::{decode, known, whole, wire};
use libfuzzer_sys::fuzz_target;

const KINDS: [(&str, &str); 8] = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "CronJob"),
    ("networking.k8s.io/v1", "Ingress"),
    ("meta.k8s.io/v1", "DeleteOptions"),
    ("v1", "Status"),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, message)) = bytes.split_first() else { return };
    let _ = decode(bytes);
    let (version, name) = KINDS[usize::from(*first) % KINDS.len()];
    let mut envelope = b"k8s\0".to_vec();
    wire::put_message(&mut envelope, 1, |out| {
        wire::put_bytes(out, 1, version.as_bytes());
        wire::put_bytes(out, 2, name.as_bytes());
    });
    wire::put_bytes(&mut envelope, 2, message);
    let Ok(read) = decode(&envelope) else { return };
    let Some(kind) = known(version, name) else { return };
    let again = decode(&whole(&kind, &read)).expect("what we wrote");
    let third = decode(&whole(&kind, &again)).expect("what we wrote");
    assert_eq!(again, third, "writing and reading changes nothing any more");
});
