//! Seats, and who waits for one.
//!
//! A priority level has seats. A request takes one or more while it is worked on; when all are taken it waits in a queue,
//! or is refused. Requests of one flow wait in few of the level's queues (its hand), and queues are served in turn, each
//! according to how much it has had, so that somebody with a thousand requests does not keep others waiting.
//!
//! A level that has nothing to do lends part of its seats. What it lent it does not wait for: its own share is there
//! when it asks, and those who borrowed get nothing new until they are within theirs.
//!
//! No clock and no tasks: whoever calls says who arrives and who leaves, and is told who may go on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// What a level may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limits {
    /// No limit.
    Exempt,
    Limited {
        seats: u32,
        /// How many of them others may use.
        lendable: u32,
        /// How many it may use of others'; `None`: as many as there are.
        borrows: Option<u32>,
        /// `None`: whoever finds no seat is refused.
        queuing: Option<Queuing>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    /// In how many of them a flow may wait.
    pub hand: usize,
    /// How many may wait in one.
    pub length: usize,
}

/// Somebody who waits.
pub type Ticket = u64;

#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    Runs,
    Waits(Ticket),
    Refused,
}

/// A request as the levels see it.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Requests with the same number belong together.
    pub flow: u64,
    /// How many seats it takes.
    pub width: u32,
}

#[derive(Default)]
pub struct Levels {
    levels: BTreeMap<Arc<str>, Level>,
    next_ticket: Ticket,
}

struct Level {
    limits: Limits,
    in_use: u32,
    queues: Vec<Queue>,
    /// How much the queue had that was served last: an idle one begins from here and not from nothing.
    served: u64,
    waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Ticket, Caller)>,
    served: u64,
}

impl Levels {
    /// Exchanges the limits. Who waits goes on waiting; gives those whose level is gone, who may go on at once.
    pub fn configure(&mut self, limits: BTreeMap<Arc<str>, Limits>) -> Vec<Ticket> {
        let mut before = std::mem::take(&mut self.levels);
        for (name, limits) in limits {
            let mut level = Level::new(limits);
            if let Some(old) = before.remove(&name) {
                level.in_use = old.in_use;
                for (ticket, caller) in old.into_waiting() {
                    level.enqueue(ticket, caller);
                }
            }
            self.levels.insert(name, level);
        }
        let orphans = before.into_values().flat_map(Level::into_waiting).map(|(ticket, _)| ticket);
        let mut going_on: Vec<Ticket> = orphans.collect();
        going_on.extend(self.dispatch());
        going_on
    }

    pub fn arrive(&mut self, level: &str, caller: Caller) -> Arrival {
        let fits = self.fits(level, caller.width);
        let Some(level) = self.levels.get_mut(level) else { return Arrival::Refused };
        if fits && level.waiting == 0 {
            level.in_use += caller.width;
            return Arrival::Runs;
        }
        let Limits::Limited { queuing: Some(queuing), .. } = &level.limits else { return Arrival::Refused };
        let length = queuing.length;
        let queue = level.shortest(caller.flow, *queuing);
        if level.queues[queue].waiting.len() >= length {
            return Arrival::Refused;
        }
        self.next_ticket += 1;
        level.push(queue, self.next_ticket, caller);
        Arrival::Waits(self.next_ticket)
    }

    /// Gives back the seats of somebody who ran; gives those who may go on now.
    pub fn leave(&mut self, level: &str, width: u32) -> Vec<Ticket> {
        if let Some(level) = self.levels.get_mut(level) {
            level.in_use = level.in_use.saturating_sub(width);
        }
        self.dispatch()
    }

    /// Somebody waits no longer. `false`: they had just been let go on, and hold their seats.
    pub fn give_up(&mut self, level: &str, ticket: Ticket) -> bool {
        let Some(level) = self.levels.get_mut(level) else { return false };
        for queue in &mut level.queues {
            if let Some(place) = queue.waiting.iter().position(|(own, _)| *own == ticket) {
                queue.waiting.remove(place);
                level.waiting -= 1;
                return true;
            }
        }
        false
    }

    /// The seats in use and how many wait, a level.
    pub fn usage(&self) -> impl Iterator<Item = (&Arc<str>, u32, usize)> {
        self.levels.iter().map(|(name, level)| (name, level.in_use, level.waiting))
    }

    fn dispatch(&mut self) -> Vec<Ticket> {
        let waited_for: Vec<Arc<str>> =
            self.levels.iter().filter(|(_, level)| level.waiting > 0).map(|(name, _)| name.clone()).collect();
        let mut going_on = Vec::new();
        for name in waited_for {
            while let Some((queue, width)) = self.levels.get(&name).and_then(Level::first)
                && self.fits(&name, width)
                && let Some(level) = self.levels.get_mut(&name)
            {
                going_on.extend(level.pop(queue));
            }
        }
        going_on
    }

    /// Whether a level has or may borrow this many seats more. A request that is wider than its level runs alone.
    fn fits(&self, name: &str, width: u32) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        let Limits::Limited { seats, borrows, .. } = level.limits else { return true };
        let wanted = level.in_use + width;
        if level.in_use == 0 || wanted <= seats {
            return true;
        }
        let borrowed = wanted - seats;
        if borrows.is_some_and(|most| borrowed > most) {
            return false;
        }
        let others = || self.levels.iter().filter(|(own, _)| &***own != name).map(|(_, level)| level);
        let offered: u32 = others().map(Level::idle_lendable).sum();
        let taken: u32 = others().map(Level::borrowed).sum();
        borrowed + taken <= offered
    }
}

impl Level {
    fn new(limits: Limits) -> Level {
        let n_queues = match &limits {
            Limits::Limited { queuing: Some(queuing), .. } => queuing.queues,
            _ => 0,
        };
        let queues = (0..n_queues).map(|_| Queue::default()).collect();
        Level { limits, in_use: 0, queues, served: 0, waiting: 0 }
    }

    fn idle_lendable(&self) -> u32 {
        match self.limits {
            Limits::Limited { seats, lendable, .. } => lendable.min(seats.saturating_sub(self.in_use)),
            Limits::Exempt => 0,
        }
    }

    fn borrowed(&self) -> u32 {
        match self.limits {
            Limits::Limited { seats, .. } => self.in_use.saturating_sub(seats),
            Limits::Exempt => 0,
        }
    }

    /// The shortest queue of a flow's hand. The hand is dealt by the flow's number, so it is the same each time.
    fn shortest(&self, mut flow: u64, queuing: Queuing) -> usize {
        let mut deck: Vec<usize> = (0..self.queues.len()).collect();
        let mut shortest = None;
        for _ in 0..queuing.hand.min(self.queues.len()) {
            let dealt = deck.swap_remove((flow % deck.len() as u64) as usize);
            flow = (flow / (deck.len() as u64 + 1)) ^ flow.rotate_right(17);
            let length = self.queues[dealt].waiting.len();
            if shortest.is_none_or(|(least, _)| length < least) {
                shortest = Some((length, dealt));
            }
        }
        shortest.map_or(0, |(_, queue)| queue)
    }

    /// Puts somebody who waited elsewhere where they belong now, even where there is no room left.
    fn enqueue(&mut self, ticket: Ticket, caller: Caller) {
        if let Limits::Limited { queuing: Some(queuing), .. } = self.limits.clone() {
            let queue = self.shortest(caller.flow, queuing);
            self.push(queue, ticket, caller);
        } else {
            // It takes no queue any more: one is kept for those who came before.
            self.queues.resize_with(1, Queue::default);
            self.push(0, ticket, caller);
        }
    }

    fn push(&mut self, queue: usize, ticket: Ticket, caller: Caller) {
        let queue = &mut self.queues[queue];
        if queue.waiting.is_empty() {
            queue.served = queue.served.max(self.served);
        }
        queue.waiting.push_back((ticket, caller));
        self.waiting += 1;
    }

    /// The queue whose turn it is, and how wide its first is.
    fn first(&self) -> Option<(usize, u32)> {
        let queues = self.queues.iter().enumerate();
        let (queue, first) = queues
            .filter_map(|(index, queue)| Some((index, queue.served, queue.waiting.front()?)))
            .min_by_key(|(_, served, (ticket, _))| (*served, *ticket))
            .map(|(index, _, (_, caller))| (index, caller.width))?;
        Some((queue, first))
    }

    fn pop(&mut self, queue: usize) -> Option<Ticket> {
        let queue = &mut self.queues[queue];
        let (ticket, caller) = queue.waiting.pop_front()?;
        self.served = queue.served;
        queue.served += u64::from(caller.width);
        self.waiting -= 1;
        self.in_use += caller.width;
        Some(ticket)
    }

    fn into_waiting(self) -> Vec<(Ticket, Caller)> {
        let mut waiting: Vec<_> = self.queues.into_iter().flat_map(|queue| queue.waiting).collect();
        waiting.sort_by_key(|(ticket, _)| *ticket);
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUES: Queuing = Queuing { queues: 8, hand: 2, length: 3 };

    fn limited(seats: u32, lendable: u32, queuing: Option<Queuing>) -> Limits {
        Limits::Limited { seats, lendable, borrows: None, queuing }
    }

    fn levels(limits: impl IntoIterator<Item = (&'static str, Limits)>) -> Levels {
        let mut levels = Levels::default();
        levels.configure(limits.into_iter().map(|(name, limits)| (name.into(), limits)).collect());
        levels
    }

    fn one(flow: u64) -> Caller {
        Caller { flow, width: 1 }
    }

    #[test]
    fn a_greedy_flow_waits_behind_itself_only() {
        let mut levels = levels([("low", limited(1, 0, Some(QUEUES)))]);
        assert_eq!(levels.arrive("low", one(1)), Arrival::Runs);
        let mut refused = 0;
        let mut greedy = Vec::new();
        for _ in 0..20 {
            match levels.arrive("low", one(1)) {
                Arrival::Waits(ticket) => greedy.push(ticket),
                _ => refused += 1,
            }
        }
        assert_eq!((greedy.len(), refused), (6, 14), "two queues of three");
        // One whose hand is not the same.
        let Arrival::Waits(modest) = levels.arrive("low", one(4)) else { panic!("refused") };
        let order: Vec<Ticket> = (0..7).flat_map(|_| levels.leave("low", 1)).collect();
        assert_eq!(order.len(), 7);
        assert!(order.iter().position(|ticket| *ticket == modest).unwrap() <= 2, "{order:?}, {modest}");
    }

    #[test]
    fn idle_seats_are_lent_and_are_there_for_their_owner() {
        let mut levels = levels([("busy", limited(1, 0, None)), ("idle", limited(4, 2, None))]);
        let run = |levels: &mut Levels, name: &str| levels.arrive(name, one(0));
        for _ in 0..3 {
            assert_eq!(run(&mut levels, "busy"), Arrival::Runs);
        }
        assert_eq!(run(&mut levels, "busy"), Arrival::Refused, "more is not lent");
        for _ in 0..4 {
            assert_eq!(run(&mut levels, "idle"), Arrival::Runs, "its own");
        }
        levels.leave("busy", 1);
        assert_eq!(run(&mut levels, "busy"), Arrival::Refused, "nothing is idle");
    }

    #[test]
    fn wide_requests_take_more_and_run_alone_where_they_must() {
        let mut levels = levels([("low", limited(2, 0, Some(QUEUES)))]);
        assert_eq!(levels.arrive("low", Caller { flow: 1, width: 10 }), Arrival::Runs);
        let Arrival::Waits(next) = levels.arrive("low", one(2)) else { panic!("no seat is left") };
        assert_eq!(levels.leave("low", 10), [next]);
    }

    #[test]
    fn who_gives_up_is_forgotten_and_new_limits_let_the_rest_go_on() {
        let mut levels = levels([("low", limited(1, 0, Some(QUEUES)))]);
        assert_eq!(levels.arrive("low", one(1)), Arrival::Runs);
        let (Arrival::Waits(first), Arrival::Waits(second)) =
            (levels.arrive("low", one(1)), levels.arrive("low", one(1)))
        else {
            panic!("they wait")
        };
        assert!(levels.give_up("low", first) && !levels.give_up("low", first));
        assert_eq!(levels.configure([("low".into(), limited(2, 0, None))].into()), [second]);
        assert!(!levels.give_up("low", second));
        assert_eq!(levels.arrive("low", one(1)), Arrival::Refused);
        assert!(levels.configure(BTreeMap::new()).is_empty());
    }

    #[test]
    fn nobody_waits_at_an_exempt_level() {
        let mut levels = levels([("exempt", Limits::Exempt)]);
        assert!((0..10_000).all(|_| levels.arrive("exempt", one(1)) == Arrival::Runs));
        assert_eq!(levels.arrive("none", one(1)), Arrival::Refused);
    }
}
