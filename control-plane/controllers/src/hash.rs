//! Names and labels derived from what they stand for.
//!
//! Generated names come from owner, revision and index, so that a plan computed twice from one view is the same plan, and
//! the second of two that were computed from the same view is refused.

/// No vowels and no digits that look like letters, so that no word appears by accident.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a with 64 bits: stable over versions and machines, which the standard hasher does not promise.
pub fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // The last bytes have hardly reached the low bits yet.
    hash ^ (hash >> 32)
}

/// The last `letters` digits of a number in the alphabet.
pub fn letters(mut number: u64, letters: usize) -> String {
    let mut text = String::with_capacity(letters);
    for _ in 0..letters {
        text.push(char::from(ALPHABET[(number % ALPHABET.len() as u64) as usize]));
        number /= ALPHABET.len() as u64;
    }
    text
}
