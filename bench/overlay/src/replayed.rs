//! What the simulator says of messages that hosts have sent, beside what interfaces counted.

use std::sync::mpsc;

use anyhow::Result;
use xcast_overlay::net::Fanout;
use xcast_sim::replay::{Replay, replay};
use xtask::testbed::Traffic;

use crate::bed::Bed;

/// The messages that were noted so far.
pub fn noted(notes: &mpsc::Receiver<Fanout>) -> Vec<Fanout> {
    notes.try_iter().collect()
}

/// Links that were crossed by other packets or octets than the simulator says, each in words.
///
/// # Errors
///
/// The network or a message is none that can be simulated.
pub fn differences(bed: &Bed, log: &[Fanout], counted: &[Traffic]) -> Result<Vec<String>> {
    let plan = bed.testbed.plan();
    // By way of JSON, as files have it.
    let network = serde_json::from_value(serde_json::to_value(plan)?)?;
    let log = serde_json::from_value::<Vec<_>>(serde_json::to_value(log)?)?;
    let capable = bed.deployment().routers(plan).into_iter();
    let settings = Replay {
        capable: Some(capable.map(str::to_owned).collect()),
        bitmap: false,
    };
    let crossed = replay(&network, &settings, &log)?;
    let links = crossed.iter().zip(counted);
    let differ = links.filter_map(|(link, counted)| {
        let simulated = (link.packets, link.frame_octets);
        let counted = (counted.packets, counted.bytes);
        let name = link.nodes.join("-");
        (simulated != counted)
            .then(|| format!("{name}: simulated {simulated:?}, counted {counted:?}"))
    });
    Ok(differ.collect())
}
