//! Reads that must see all that was answered before they began: the leader is asked how far the log is.

use std::collections::VecDeque;

use copepod_store::View;
use tokio::sync::oneshot;

use super::Machine;
use crate::disk::Disk;

/// A question to the leader that has no answer after so many ticks is asked again: leadership may have moved meanwhile.
const ASK_AGAIN_TICKS: u32 = 6;

/// Reads that wait for the leader's word. All that wait are asked for together.
#[derive(Default)]
pub struct Reads {
    number: u64,
    pub waiting: Vec<oneshot::Sender<View>>,
    asked: VecDeque<(u64, Vec<oneshot::Sender<View>>)>,
    /// Answered: the state must contain the index.
    confirmed: Vec<(u64, Vec<oneshot::Sender<View>>)>,
    ticks_since_asked: u32,
}

impl<D: Disk> Machine<D> {
    /// A question is asked again if no answer comes.
    pub(super) fn tick_reads(&mut self) {
        self.reads.ticks_since_asked += 1;
        if self.reads.ticks_since_asked >= ASK_AGAIN_TICKS && !self.reads.asked.is_empty() {
            self.ask();
        }
    }

    pub(super) fn ask_for_reads(&mut self) {
        self.reads.asked.retain_mut(|(_, waiting)| {
            waiting.retain(|answer| !answer.is_closed());
            !waiting.is_empty()
        });
        if self.reads.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.reads.waiting);
        self.reads.asked.push_back((self.reads.number + 1, waiting));
        self.ask();
    }

    fn ask(&mut self) {
        self.reads.number += 1;
        self.reads.ticks_since_asked = 0;
        self.raw.read_index(self.reads.number.to_le_bytes().to_vec());
    }

    pub(super) fn confirm(&mut self, context: &[u8], index: u64) {
        let Ok(number) = context.try_into().map(u64::from_le_bytes) else { return };
        // A later answer confirms earlier questions too.
        while self.reads.asked.front().is_some_and(|(asked, _)| *asked <= number) {
            let Some((_, waiting)) = self.reads.asked.pop_front() else { return };
            self.reads.confirmed.push((index, waiting));
        }
    }

    pub(super) fn answer_reads(&mut self) {
        let applied = self.applied.0;
        for (_, waiting) in self.reads.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            for answer in waiting {
                let _ = answer.send(self.view.clone());
            }
        }
    }
}
