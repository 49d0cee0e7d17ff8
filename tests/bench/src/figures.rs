//! Figures: what was measured, how much it was, and how much it should be.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::yardsticks;

/// One measured figure. `what` names it, and is how it is found in an earlier run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: String,
    /// What it should reach: at least, or at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtLeast(goal) => write!(f, "≥ {}", shown(*goal)),
            Goal::AtMost(goal) => write!(f, "≤ {}", shown(*goal)),
        }
    }
}

impl Figure {
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure { what: what.into(), value, unit: unit.to_owned(), goal: None }
    }

    /// How many a second.
    pub fn rate(what: impl Into<String>, n: usize, took: Duration) -> Figure {
        Figure::new(what, n as f64 / took.as_secs_f64(), "/s")
    }

    pub fn at_least(self, goal: f64) -> Figure {
        Figure { goal: Some(Goal::AtLeast(goal)), ..self }
    }

    pub fn at_most(self, goal: f64) -> Figure {
        Figure { goal: Some(Goal::AtMost(goal)), ..self }
    }

    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a figure is numbers and text")
    }

    /// A figure of any program that prints such lines; its goal is known here where it has none of its own.
    pub fn parse(line: &str) -> Option<Figure> {
        let figure: Figure = serde_json::from_str(line).ok()?;
        let goal = figure.goal.or_else(|| yardsticks::goal(&figure.what));
        Some(Figure { goal, ..figure })
    }

    /// A row of the table; with the ratio to the same figure of an earlier run, where there is one.
    pub fn line(&self, baseline: &Baseline) -> String {
        let value = format!("{} {}", shown(self.value), self.unit);
        let goal = match self.goal {
            Some(goal) if goal.is_met(self.value) => format!("{goal}: met"),
            Some(goal) => format!("{goal}: MISSED"),
            None => String::new(),
        };
        let ratio = baseline.0.get(&self.what).map(|before| format!("{:.2} × before", self.value / before));
        format!("{:<64} {value:>16}  {goal:<20} {}", self.what, ratio.unwrap_or_default()).trim_end().to_owned()
    }
}

/// Three digits that count, without an exponent.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value that so many of all did not exceed; `part` is between 0 and 1.
pub fn quantile(durations: &mut [Duration], part: f64) -> Duration {
    durations.sort_unstable();
    let place = (durations.len().saturating_sub(1) as f64 * part).round() as usize;
    durations.get(place).copied().unwrap_or_default()
}

/// Figures of an earlier run, by what they are of.
#[derive(Default)]
pub struct Baseline(BTreeMap<String, f64>);

impl Baseline {
    pub fn read(path: &Path) -> Result<Baseline, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Baseline(text.lines().filter_map(Figure::parse).map(|figure| (figure.what, figure.value)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_goal_and_the_ratio() {
        let baseline = Baseline(BTreeMap::from([("writes".to_owned(), 100.0)]));
        let row = Figure::rate("writes", 150, Duration::from_secs(1)).at_least(200.0).line(&baseline);
        assert_eq!(row.split_whitespace().collect::<Vec<_>>().join(" "), "writes 150 /s ≥ 200: MISSED 1.50 × before");
        let read = Figure::parse(&Figure::new("a", 1.5, "ms").at_most(2.0).json()).unwrap();
        assert_eq!(
            read.line(&Baseline::default()).split_whitespace().collect::<Vec<_>>().join(" "),
            "a 1.50 ms ≤ 2.00: met"
        );
    }

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let mut values: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut values, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&mut values, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
