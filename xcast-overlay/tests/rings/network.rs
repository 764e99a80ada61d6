//! What these tests have in common: peers on a port of their own, and how many there are.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

pub use xcast_overlay::memory::{Faults, World as Network};
use xcast_overlay::{
    krpc::Family,
    runtime::{Protocol, Transmit},
};

/// What goes wrong on the way of a ring that has to live with it.
pub const LOSSY: Faults = Faults {
    first_link_loss: 10,
    loss: 20,
    duplicates: 50,
    truncated: 10,
    jitter: Duration::from_millis(100),
};

/// What was sent: when, by whom.
pub type Transmits = Vec<(Instant, usize, Transmit)>;

/// The address of peer `at`.
pub fn address(at: usize, family: Family) -> SocketAddr {
    let mut address = xcast_overlay::memory::address(at, family);
    address.set_port(4000);
    address
}

/// The addresses of all peers, also of those that are gone.
pub fn addresses<P: Protocol>(network: &Network<P>) -> Vec<SocketAddr> {
    let all = 0..network.nodes.len();
    all.map(|at| network.address(at)).collect()
}

/// How many peers a test has: few, unless `XCAST_PEERS` says otherwise.
pub fn peers(usually: usize) -> usize {
    let given = std::env::var("XCAST_PEERS").ok();
    given.map_or(usually, |given| {
        given.parse().expect("XCAST_PEERS is a number")
    })
}

/// Notes all that is sent from now on.
pub fn note<P: Protocol>(network: &mut Network<P>) -> Rc<RefCell<Transmits>> {
    let noted = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&noted);
    network.watch = Some(Box::new(move |now, at, transmit| {
        notes.borrow_mut().push((now, at, transmit.clone()));
    }));
    noted
}
