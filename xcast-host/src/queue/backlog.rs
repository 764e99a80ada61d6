//! The batches that wait, by serial number.

use std::collections::VecDeque;

use super::batch::Batch;

/// Batches in the order of their serial numbers, which count up by one. Batches may leave from
/// anywhere; the places of those that left are given back when they come to the front.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The first is there, if there is any.
    places: VecDeque<Option<Box<Batch>>>,
    /// Serial number of the first place.
    first: u64,
}

impl Backlog {
    /// Returns the batch's serial number.
    pub fn push(&mut self, batch: Batch) -> u64 {
        self.places.push_back(Some(Box::new(batch)));
        self.first + self.places.len() as u64 - 1
    }

    pub fn get(&self, serial: u64) -> Option<&Batch> {
        let place = serial.checked_sub(self.first)?;
        self.places.get(usize::try_from(place).ok()?)?.as_deref()
    }

    pub fn get_mut(&mut self, serial: u64) -> Option<&mut Batch> {
        let place = serial.checked_sub(self.first)?;
        let place = self.places.get_mut(usize::try_from(place).ok()?)?;
        place.as_deref_mut()
    }

    /// The batch that waits longest.
    pub fn first(&self) -> Option<(u64, &Batch)> {
        Some((self.first, self.places.front()?.as_deref()?))
    }

    pub fn remove(&mut self, serial: u64) -> Option<Box<Batch>> {
        let place = serial.checked_sub(self.first)?;
        let batch = self.places.get_mut(usize::try_from(place).ok()?)?.take()?;
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        Some(batch)
    }

    /// How many places there are, those of batches that left included.
    pub fn places(&self) -> usize {
        self.places.len()
    }
}
