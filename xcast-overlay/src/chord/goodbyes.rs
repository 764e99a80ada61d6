//! Saying goodbye: a peer has left when all of its neighbours have taken note, or do not answer.

/// Neighbours that have yet to take note that this peer leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Goodbyes(usize);

impl Goodbyes {
    /// Says goodbye to so many.
    pub fn new(neighbours: usize) -> Self {
        Self(neighbours)
    }

    /// One has taken note, or does not answer: whether it is the last.
    pub fn said(&mut self) -> bool {
        let was_open = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        was_open && self.0 == 0
    }
}
