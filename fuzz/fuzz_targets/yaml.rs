//! Whatever is read as YAML is written and read again as the same.
#![no_main]

use copepod_api::decode::{self, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode::yaml_documents(bytes, &Limits::default());
    if let Ok((value, _)) = decode::yaml(bytes, &Limits::default()) {
        let written = decode::to_yaml(&value);
        let (again, _) = decode::yaml(written.as_bytes(), &Limits::default()).expect("what was written");
        assert_eq!(again, value, "{written}");
    }
});
