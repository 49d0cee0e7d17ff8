//! Numbers that are given absolutely or as a share: `3`, `"25%"`.

use copepod_api::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

pub fn of(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let Some(share) = text.strip_suffix('%').and_then(|share| share.parse::<i64>().ok()) else {
                // Validation lets none in; nothing is the careful reading.
                return 0;
            };
            let product = share.max(0).saturating_mul(total.max(0).into());
            let rounded = match round {
                Round::Up => product.saturating_add(99) / 100,
                Round::Down => product / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        let share = |text: &str, total, round| of(&IntOrString::String(text.into()), total, round);
        assert_eq!(share("25%", 10, Round::Up), 3);
        assert_eq!(share("25%", 10, Round::Down), 2);
        assert_eq!(share("100%", 7, Round::Down), 7);
        assert_eq!(share("a lot", 7, Round::Up), 0);
        assert_eq!(of(&IntOrString::Int(-1), 7, Round::Up), 0);
    }
}
