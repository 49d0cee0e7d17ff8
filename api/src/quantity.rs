//! Amounts of resources: `500m`, `1.5Gi`, `2e3`.
//!
//! A quantity is an exact number of billionths and the family of suffixes it was written in, so that it is written
//! back the way Kubernetes would write it: `0.1` becomes `100m`, `1024Mi` becomes `1Gi`, `1.5k` becomes `1500`.

use std::{
    cmp::Ordering,
    fmt,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount. Two quantities are equal when they are the same number, however written.
#[derive(Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    family: Family,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Family {
    /// `m`, `k`, `M`.
    #[default]
    Decimal,
    /// `Ki`, `Mi`.
    Binary,
    /// `e3`.
    Exponent,
}

/// Kubernetes' quantities saturate at the largest `i64`, whatever their unit.
const NANO_MAX: i128 = i64::MAX as i128 * NANO;
const NANO: i128 = 1_000_000_000;

/// No amount that means something is longer; a bound, because the text is user input and the arithmetic is by digit.
const TEXT_BYTES_MAX: usize = 256;

const FORMAT: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, family: Family::Decimal };

    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(FORMAT.to_owned());
        }
        let (is_negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(FORMAT.to_owned());
        }
        let (family, thousands_of_1024, exponent) = unit(suffix)?;

        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
        for _ in 0..thousands_of_1024 {
            multiply(&mut digits, 1024);
        }
        // The decimal point, counted from the end of `digits`, once the number is in billionths.
        let point = fraction.len() as i64 - exponent - 9;
        let nano = rounded_up(&digits, point);
        let family = if family == Family::Binary && nano < NANO { Family::Decimal } else { family };
        Ok(Quantity { nano: if is_negative { -nano } else { nano }, family })
    }

    pub fn from_milli(milli: i64) -> Self {
        Quantity { nano: i128::from(milli) * (NANO / 1000), family: Family::Decimal }
    }

    pub fn from_value(value: i64) -> Self {
        Quantity { nano: i128::from(value) * NANO, family: Family::Decimal }
    }

    /// A number of bytes, written with `Ki`, `Mi`, `Gi`.
    pub fn from_bytes(bytes: i64) -> Self {
        Quantity { nano: i128::from(bytes) * NANO, family: Family::Binary }
    }

    /// Thousandths, rounded away from zero.
    pub fn milli(&self) -> i64 {
        saturated(divide_away_from_zero(self.nano, NANO / 1000))
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        saturated(divide_away_from_zero(self.nano, NANO))
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

/// The family, the power of 1024 and the power of ten that a suffix stands for.
fn unit(suffix: &str) -> Result<(Family, u32, i64), String> {
    Ok(match suffix {
        "n" => (Family::Decimal, 0, -9),
        "u" => (Family::Decimal, 0, -6),
        "m" => (Family::Decimal, 0, -3),
        "" => (Family::Decimal, 0, 0),
        "k" => (Family::Decimal, 0, 3),
        "M" => (Family::Decimal, 0, 6),
        "G" => (Family::Decimal, 0, 9),
        "T" => (Family::Decimal, 0, 12),
        "P" => (Family::Decimal, 0, 15),
        "E" => (Family::Decimal, 0, 18),
        "Ki" => (Family::Binary, 1, 0),
        "Mi" => (Family::Binary, 2, 0),
        "Gi" => (Family::Binary, 3, 0),
        "Ti" => (Family::Binary, 4, 0),
        "Pi" => (Family::Binary, 5, 0),
        "Ei" => (Family::Binary, 6, 0),
        _ => {
            let Some(exponent) = suffix.strip_prefix(['e', 'E']) else {
                let known = suffix.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c));
                return Err(if known { SUFFIX } else { FORMAT }.to_owned());
            };
            let exponent: i32 = exponent.parse().map_err(|_| SUFFIX.to_owned())?;
            (Family::Exponent, 0, i64::from(exponent))
        }
    })
}

/// Long multiplication: exact for any number of digits, and the factor is small.
fn multiply(digits: &mut Vec<u8>, factor: u32) {
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let product = u32::from(*digit) * factor + carry;
        *digit = (product % 10) as u8;
        carry = product / 10;
    }
    while carry > 0 {
        digits.insert(0, (carry % 10) as u8);
        carry /= 10;
    }
}

/// The number whose last `point` digits stand behind the decimal point, rounded up and held below the maximum. A
/// negative `point` appends zeros.
fn rounded_up(digits: &[u8], point: i64) -> i128 {
    let n_whole = digits.len() as i64 - point;
    let mut number: i128 = 0;
    for at in 0..n_whole.max(0) {
        let digit = usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
        number = number * 10 + i128::from(digit);
        if number >= NANO_MAX {
            return NANO_MAX;
        }
        // Only zeros follow a zero that is past the last digit: nothing more to learn.
        if number == 0 && at >= digits.len() as i64 {
            return 0;
        }
    }
    let fraction_from = usize::try_from(n_whole).unwrap_or(0).min(digits.len());
    if digits[fraction_from..].iter().any(|digit| *digit != 0) { number + 1 } else { number }
}

fn divide_away_from_zero(number: i128, by: i128) -> i128 {
    let quotient = number / by;
    if number % by == 0 { quotient } else { quotient + number.signum() }
}

fn saturated(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// The canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.family == Family::Binary && self.is_whole() && self.nano.abs() >= 1024 * NANO {
            let mut number = self.nano / NANO;
            let mut step = 0;
            while number % 1024 == 0 && step < BINARY.len() - 1 {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", BINARY[step]);
        }
        let mut number = self.nano;
        let mut exponent = -9;
        while number % 1000 == 0 && (exponent < 18 || self.family == Family::Exponent) {
            number /= 1000;
            exponent += 3;
        }
        if self.family == Family::Exponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix = DECIMAL[usize::try_from((exponent + 9) / 3).unwrap_or(0).min(DECIMAL.len() - 1)];
        write!(f, "{number}{suffix}")
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// Keeps the suffixes of the left side, unless that is nothing.
    fn add(self, other: Quantity) -> Quantity {
        let family = if self.nano == 0 { other.family } else { self.family };
        Quantity { nano: self.nano.saturating_add(other.nano).clamp(-NANO_MAX, NANO_MAX), family }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, family: self.family }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::ZERO, Add::add)
    }
}

impl TryFrom<&Written> for Quantity {
    type Error = String;

    fn try_from(written: &Written) -> Result<Quantity, String> {
        Quantity::parse(&written.0)
    }
}

impl From<Quantity> for Written {
    fn from(quantity: Quantity) -> Written {
        Written(quantity.to_string())
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
        let text = String::deserialize(deserializer)?;
        Quantity::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_kubernetes_writes() {
        let table = "
            0=0 0.0=0 -0=0 0Ki=0 1=1 +1=1 -1=-1 1000=1k 1500=1500 1.5k=1500 0.1=100m .5=500m 5.=5 100m=100m 1000m=1
            1500m=1500m 1e3=1e3 1E3=1e3 1.5e3=1500 1e-3=1e-3 12e2=1200 1E=1E 1000k=1M 1024=1024 1Ki=1Ki 1024Ki=1Mi
            1.5Gi=1536Mi 0.5Ki=512 0.5Mi=512Ki 0.3Ki=307200m 1000Ki=1000Ki 1u=1u 1n=1n 0.1n=1n 0.0000000001=1n
            999999999999E=9223372036854775807 9Ei=9223372036854775807 7Ei=7Ei 1e400=9223372036854775807 1e-400=1e-9
            -1.5Gi=-1536Mi 1000000000=1G 128974848=128974848 129e6=129e6 123Mi=123Mi 0.001Ki=1024m 1.1Ki=1126400m 62.5Ki=64000
        ";
        for line in table.split_whitespace() {
            let (text, canonical) = line.split_once('=').unwrap();
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", " 1", "1 ", "m", "1mm", "1.2.3", "--1", "1KiB", "1ki", "1K", "1e", "1e+", "abc", "1,5", "ä", "."]
        {
            assert!(Quantity::parse(text).is_err(), "{text:?} was taken");
        }
        assert!(Quantity::parse(&"9".repeat(10_000)).is_err());
        assert_eq!(Quantity::parse("1K").unwrap_err(), SUFFIX);
        assert_eq!(Quantity::parse("x").unwrap_err(), FORMAT);
    }

    #[test]
    fn units_round_up_and_sums_hold() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((quantity("1n").milli(), quantity("1n").value()), (1, 1));
        assert_eq!((quantity("1500m").milli(), quantity("1500m").value()), (1500, 2));
        assert_eq!((quantity("-1500m").milli(), quantity("-1500m").value()), (-1500, -2));
        assert_eq!(quantity("9Ei").milli(), i64::MAX);
        assert_eq!((quantity("500m") + quantity("1")).to_string(), "1500m");
        assert_eq!((quantity("0") + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("1Gi") - quantity("512Mi")).to_string(), "512Mi");
        assert!(quantity("1Gi") > quantity("1G") && quantity("1000m") == quantity("1"));
        assert_eq!([quantity("1"), quantity("250m")].into_iter().sum::<Quantity>(), quantity("1250m"));
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_is_the_same_number(text in "[+-]?[0-9]{1,8}(\\.[0-9]{0,6})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,2})?") {
            let quantity = Quantity::parse(&text).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            proptest::prop_assert_eq!(quantity, again);
            // `62.5Ki` is written 64000, which says nothing of `Ki` and is 64k from then on.
            let settled = Quantity::parse(&again.to_string()).unwrap();
            proptest::prop_assert_eq!(again.to_string(), settled.to_string());
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = Quantity::parse(&text);
        }
    }
}
