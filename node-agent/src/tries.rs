//! How often servers are tried, and how long each is given to answer: what an agent has learned from its last tries.

use std::time::Duration;

/// The pause before the next server is tried.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause before a leader is tried that another server named: it may have told that one only just now.
const PAUSE_REDIRECT: Duration = Duration::from_millis(25);

/// How long a server may take to answer the first message. A server that leads answers at once, unless so much is asked of it
/// that it must not be asked again and again: twice as long, then, with each try that was not answered.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX_BUSY: Duration = Duration::from_secs(40);

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// That server does not lead; this one does.
    Redirect(String),
    /// It had begun, and broke off.
    Broken(String),
    Refused(String),
    /// It has not answered in time.
    Unanswered,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Tries {
    pause: Duration,
    answer_max: Duration,
}

impl Default for Tries {
    fn default() -> Tries {
        Tries { pause: PAUSE_MIN, answer_max: ANSWER_MAX }
    }
}

impl Tries {
    /// How long the next server may take to answer.
    pub fn answer_max(&self) -> Duration {
        self.answer_max
    }

    /// Learns from how a try ended; says how long to wait before the next, on average.
    pub fn after(&mut self, end: &End) -> Duration {
        let pause = self.pause;
        let longer = (pause * 2).min(PAUSE_MAX);
        match end {
            // Says nothing of the one that it names, which may be the busy one.
            End::Redirect(_) => return PAUSE_REDIRECT,
            End::Broken(_) => {
                *self = Tries::default();
                return PAUSE_MIN;
            }
            // Who refuses has time to. Then a server that is silent hangs, and one that is to lead next needs no patience.
            End::Refused(_) => *self = Tries { pause: longer, ..Tries::default() },
            End::Unanswered => {
                *self = Tries { pause: longer, answer_max: (self.answer_max * 2).min(ANSWER_MAX_BUSY) };
            }
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> End {
        End::Refused("no leader".to_owned())
    }

    #[test]
    fn who_is_not_answered_asks_less_and_waits_longer_up_to_a_bound() {
        let mut tries = Tries::default();
        let seen: Vec<_> =
            (0..6).map(|_| (tries.after(&End::Unanswered).as_millis(), tries.answer_max().as_secs())).collect();
        assert_eq!(seen, [(100, 10), (200, 20), (400, 40), (800, 40), (1600, 40), (2000, 40)]);
    }

    #[test]
    fn a_busy_leader_is_given_its_time_although_others_redirect_to_it() {
        let mut tries = Tries::default();
        tries.after(&End::Unanswered);
        assert_eq!(tries.after(&End::Redirect("s1".to_owned())), PAUSE_REDIRECT);
        assert_eq!(tries.answer_max(), 2 * ANSWER_MAX);
    }

    #[test]
    fn a_server_that_hangs_beside_others_that_refuse_holds_an_agent_no_longer_each_time() {
        let mut tries = Tries::default();
        for _ in 0..5 {
            tries.after(&End::Unanswered);
            tries.after(&refused());
            assert_eq!(tries.answer_max(), ANSWER_MAX);
        }
        assert_eq!(tries.after(&refused()), PAUSE_MAX);
    }

    #[test]
    fn after_a_session_all_is_as_at_first() {
        let mut tries = Tries::default();
        tries.after(&End::Unanswered);
        assert_eq!(tries.after(&End::Broken("closed".to_owned())), PAUSE_MIN);
        assert_eq!(tries, Tries::default());
    }
}
