//! What an evaluation may cost.
//!
//! One unit is about the work of reading a field. The bounds are Kubernetes' own: an expression that runs there runs here.

/// One evaluation of one expression: about a tenth of a second.
pub const CALL_COST_MAX: u64 = 1_000_000;

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It would have cost more than it may.
    Cost,
    /// The expression does not fit the values.
    Failed(String),
}

impl Fault {
    pub fn new(why: impl Into<String>) -> Fault {
        Fault::Failed(why.into())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Cost => f.write_str("operation cancelled: actual cost limit exceeded"),
            Fault::Failed(why) => f.write_str(why),
        }
    }
}

/// What is left to be spent.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    pub fn new(cost: u64) -> Budget {
        Budget { left: cost }
    }

    pub fn spend(&mut self, cost: u64) -> Result<(), Fault> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Fault::Cost)
            }
        }
    }

    /// Walking over a text costs a tenth of its length.
    pub fn walk(&mut self, length: usize) -> Result<(), Fault> {
        self.spend((length / 10) as u64)
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}
