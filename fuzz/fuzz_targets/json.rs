//! Whatever is read as JSON is written and read again as the same.
#![no_main]

use copepod_api::decode::{self, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((value, _)) = decode::json(bytes, &Limits::default()) {
        let (again, _) = decode::json(&decode::to_json(&value), &Limits::default()).expect("what was written");
        assert_eq!(again, value);
    }
});
