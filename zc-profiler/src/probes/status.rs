//! What became of each row of the hook table.

use super::hooks::{Hook, Variant};

/// A row of the hook table on the running kernel.
#[derive(Clone, Debug)]
pub struct Status {
    /// The row.
    pub hook: &'static Hook,
    /// What became of it.
    pub state: State,
}

/// What became of a hook.
#[derive(Clone, Debug)]
pub enum State {
    /// It counts, in this form.
    Attached(&'static Variant),
    /// This kernel has no such function or tracepoint.
    Absent(String),
    /// The kernel refused it.
    Failed(String),
}

impl Status {
    /// The form that counts, if one does.
    #[must_use]
    pub fn variant(&self) -> Option<&'static Variant> {
        match self.state {
            State::Attached(variant) => Some(variant),
            State::Absent(_) | State::Failed(_) => None,
        }
    }

    /// Why nothing counts, if nothing does.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Attached(_) => None,
            State::Absent(reason) | State::Failed(reason) => Some(reason),
        }
    }
}
