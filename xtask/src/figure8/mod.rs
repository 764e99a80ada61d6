//! Figure 8 of RFC 5058, as a network: three routers that speak Xcast among six that do not, tunnels between the three, and
//! BGP between the tunnels' ends that fills their Xcast routing tables.

mod bird;
mod network;
mod picture;
mod plan;

pub use self::{
    network::Figure8,
    picture::picture,
    plan::{CAPABLE, FIGURE_9, RECEIVERS, SOURCE, TABLE},
};
