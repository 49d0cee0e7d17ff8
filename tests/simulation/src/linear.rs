//! Is there an order of the calls on one object that explains every answer, and keeps calls apart that did not overlap?
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993): take any call that may come
//! next, see whether its answer fits, go on, and turn back where nothing fits. What has been tried is remembered by the
//! set of calls taken and the state they led to (Lowe, "Testing for linearizability", 2017). A call without an answer may
//! have happened at any time after it began, or never.

use std::collections::BTreeSet;

/// Steps after which the search gives up and nothing is said against the calls: with many calls without an answer it can
/// take longer than the run.
const STEPS_MAX: usize = 100_000;

/// What one object holds: no two writes write the same value.
pub type State = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create(u64),
    Patch(u64),
    /// Replaces the first value by the second, and nothing else.
    Swap(u64, u64),
    Delete,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Refused: what is there is not what it must be.
    Conflict,
    Absent,
    Seen(State),
    /// Nobody knows.
    Unknown,
    /// It certainly has not happened.
    Never,
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub kind: Kind,
    pub began: u64,
    pub ended: u64,
    pub answer: Answer,
}

/// The state after the call, if its answer fits the state before.
fn after(call: &Call, state: State) -> Option<State> {
    let (fits, refused, next) = match call.kind {
        Kind::Create(value) => (state.is_none(), state.is_some(), Some(value)),
        Kind::Patch(value) => (state.is_some(), false, Some(value)),
        Kind::Swap(from, to) => (state == Some(from), state.is_some() && state != Some(from), Some(to)),
        Kind::Delete => (state.is_some(), false, None),
        Kind::Read => return (call.answer == Answer::Seen(state)).then_some(state),
    };
    match call.answer {
        Answer::Done | Answer::Unknown => fits.then_some(next),
        Answer::Conflict => refused.then_some(state),
        Answer::Absent => state.is_none().then_some(state),
        Answer::Seen(_) | Answer::Never => None,
    }
}

/// Whether the calls on one object can be put in order, from nothing on; `None` if the search gave up.
pub fn is_linearizable(calls: &[Call]) -> Option<bool> {
    let mut calls: Vec<Call> = calls
        .iter()
        .filter(|call| call.answer != Answer::Never && (call.kind, call.answer) != (Kind::Read, Answer::Unknown))
        .copied()
        .collect();
    calls.sort_by_key(|call| call.began);
    let mut search = Search { calls: &calls, taken: vec![false; calls.len()], tried: BTreeSet::new(), n_steps: 0 };
    let fits = search.goes_on(0, None);
    (search.n_steps <= STEPS_MAX).then_some(fits)
}

struct Search<'a> {
    calls: &'a [Call],
    taken: Vec<bool>,
    tried: BTreeSet<(Vec<u64>, State)>,
    n_steps: usize,
}

impl Search<'_> {
    /// All calls before `first` are taken.
    fn goes_on(&mut self, first: usize, state: State) -> bool {
        self.n_steps += 1;
        if self.n_steps > STEPS_MAX {
            return true;
        }
        let first = (first..self.calls.len()).find(|place| !self.taken[*place]).unwrap_or(self.calls.len());
        let open = || (first..self.calls.len()).filter(|place| !self.taken[*place]);
        let is_known = |place: &usize| self.calls[*place].answer != Answer::Unknown;
        let Some(end) = open().filter(is_known).map(|place| self.calls[place].ended).min() else { return true };
        let beyond = open().map(|place| place as u64);
        let taken_beyond = (first..self.calls.len()).rfind(|place| self.taken[*place]).map_or(first, |last| last + 1);
        let key =
            std::iter::once(taken_beyond as u64).chain(beyond.take_while(|it| *it < taken_beyond as u64)).collect();
        if !self.tried.insert((key, state)) {
            return false;
        }
        let candidates: Vec<usize> = open().take_while(|place| self.calls[*place].began < end).collect();
        // Those with an answer first: without one, most have happened early or never.
        let (known, unknown): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_known);
        for place in known.into_iter().chain(unknown) {
            let Some(next) = after(&self.calls[place], state) else { continue };
            self.taken[place] = true;
            if self.goes_on(first, next) {
                return true;
            }
            self.taken[place] = false;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Kind, began: u64, ended: u64, answer: Answer) -> Call {
        Call { kind, began, ended, answer }
    }

    #[test]
    fn what_overlaps_may_have_happened_either_way_round() {
        let create = call(Kind::Create(1), 0, 1, Answer::Done);
        let patch = call(Kind::Patch(2), 2, 10, Answer::Done);
        let early = call(Kind::Read, 3, 4, Answer::Seen(Some(1)));
        let late = call(Kind::Read, 5, 6, Answer::Seen(Some(2)));
        assert_eq!(is_linearizable(&[create, patch, early, late]), Some(true));
        let back = call(Kind::Read, 7, 8, Answer::Seen(Some(1)));
        assert_eq!(is_linearizable(&[create, patch, early, late, back]), Some(false));
    }

    #[test]
    fn a_call_without_an_answer_happened_or_did_not() {
        let create = call(Kind::Create(1), 0, 1, Answer::Done);
        let delete = call(Kind::Delete, 2, 3, Answer::Unknown);
        for (seen, again, fits) in [(Some(1), None, true), (None, None, true), (None, Some(1), false)] {
            let reads = [call(Kind::Read, 4, 5, Answer::Seen(seen)), call(Kind::Read, 6, 7, Answer::Seen(again))];
            assert_eq!(is_linearizable(&[create, delete, reads[0], reads[1]]), Some(fits), "{seen:?} {again:?}");
        }
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_found() {
        let create = call(Kind::Create(1), 0, 1, Answer::Done);
        assert_eq!(is_linearizable(&[create, call(Kind::Read, 2, 3, Answer::Seen(None))]), Some(false));
        let lost = call(Kind::Swap(1, 2), 2, 3, Answer::Done);
        assert_eq!(is_linearizable(&[create, lost, call(Kind::Swap(1, 3), 4, 5, Answer::Done)]), Some(false));
        assert_eq!(is_linearizable(&[create, lost, call(Kind::Swap(1, 3), 4, 5, Answer::Conflict)]), Some(true));
    }
}
