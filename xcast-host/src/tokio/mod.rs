//! Sender and receiver for tokio, and a sender that combines messages.

mod combining;
mod ready;
mod receiver;
mod sender;

pub use self::{
    combining::{CombiningSender, Report},
    receiver::Receiver,
    sender::Sender,
};
