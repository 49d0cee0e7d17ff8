//! The canonical form of a quantity is the same amount.
#![no_main]

use copepod_api::Quantity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string()).expect("what was written");
        assert_eq!(again, quantity);
        let _ = (quantity + again, quantity - again, quantity.milli(), quantity.value());
    }
});
