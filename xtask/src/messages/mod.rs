//! Numbered messages through a testbed, by Xcast and by unicast, and what crosses its links meanwhile: for tasks that
//! show or count what lists save.

mod delivery;
mod exchange;
mod family;
mod receivers;

pub use self::{
    delivery::{Delivery, Inbox},
    exchange::{Exchange, Outcome, Pace},
    family::{Families, Family},
};
