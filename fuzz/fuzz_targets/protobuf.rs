//! Protobuf becomes JSON or is refused; what it became is written and read again as the same.
#![no_main]

use copepod_protobuf::{decode, known, whole};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = decode(bytes) else { return };
    let text = |field: &str| read[field].as_str().unwrap_or_default();
    let Some(kind) = known(text("apiVersion"), text("kind")) else { return };
    let again = decode(&whole(&kind, &read)).expect("what we wrote");
    let third = decode(&whole(&kind, &again)).expect("what we wrote");
    assert_eq!(again, third, "writing and reading changes nothing any more");
});
