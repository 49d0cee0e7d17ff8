//! Which messages arrive, and when.

use std::collections::BTreeMap;

use crate::{dice::Dice, plan::MS};

/// One way between two servers of one machine room.
const DELAY_MIN: u64 = 100;
const DELAY_MAX: u64 = 2 * MS;

/// Whoever is not a server.
pub const CLIENT: u64 = 0;

#[derive(Default)]
pub struct Network {
    /// From one to another, until when nothing arrives.
    cuts: BTreeMap<(u64, u64), u64>,
    isolated: BTreeMap<u64, u64>,
    storm: Option<Storm>,
}

#[derive(Clone, Copy)]
pub struct Storm {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub until: u64,
}

impl Network {
    pub fn cut(&mut self, from: u64, to: u64, until: u64) {
        self.cuts.insert((from, to), until);
    }

    pub fn isolate(&mut self, end: u64, until: u64) {
        self.isolated.insert(end, until);
    }

    pub fn storm(&mut self, storm: Storm) {
        self.storm = Some(storm);
    }

    pub fn heal(&mut self) {
        *self = Network::default();
    }

    /// After which time something arrives on a connection, on which nothing is lost; `None` if the connection does not hold.
    pub fn stream(&self, from: u64, to: u64, now: u64, dice: &mut Dice) -> Option<u64> {
        let is_cut = |from, to| self.cuts.get(&(from, to)).is_some_and(|until| now < *until);
        let is_away = |end| self.isolated.get(&end).is_some_and(|until| now < *until);
        if is_cut(from, to) || is_cut(to, from) || is_away(from) || is_away(to) {
            return None;
        }
        let late = self.storm.filter(|storm| now < storm.until).map_or(0, |storm| storm.late);
        Some(dice.between(DELAY_MIN, DELAY_MAX) + dice.below(late))
    }

    /// After which time a message arrives: once, more often, or never.
    pub fn carry(&self, from: u64, to: u64, now: u64, dice: &mut Dice) -> Vec<u64> {
        let is_cut = self.cuts.get(&(from, to)).is_some_and(|until| now < *until);
        let is_away = |server| self.isolated.get(&server).is_some_and(|until| now < *until);
        if is_cut || is_away(from) || is_away(to) {
            return Vec::new();
        }
        let mut delays = vec![dice.between(DELAY_MIN, DELAY_MAX)];
        let Some(storm) = self.storm.filter(|storm| now < storm.until) else { return delays };
        if dice.chance(storm.lost) {
            delays.clear();
        } else {
            delays[0] += dice.below(storm.late);
        }
        // What clients say travels on a connection, which does not double it.
        if from != CLIENT && to != CLIENT && dice.chance(storm.doubled) {
            delays.push(dice.between(DELAY_MIN, DELAY_MAX) + dice.below(storm.late));
        }
        delays
    }
}
