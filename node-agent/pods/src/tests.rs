//! Lives of pods, as stories: what happens on the left margin, what the agent is asked to do below it.

mod amounts;
mod beginning;
mod leaving;
mod life;
mod readiness;
mod restarts;
mod variables;
