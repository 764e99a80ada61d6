//! What the lists of each overlay save on real links: `simulate lists`, on a testbed.
//!
//! Nodes of one overlay at a time do what it is for, while some go and others come. The interfaces count what
//! crosses the links, and each message that leaves is noted. Then all nodes stand still, and the same messages
//! are sent again from the same hosts as datagrams, one to each receiver, and the same interfaces count these:
//! that is what unicast needs. So both sides are of the very same messages, and both are counted. What is
//! counted must also be what the simulator makes of the notes, on every link.

mod field;
mod resend;
mod subjects;

use std::{fmt, sync::mpsc};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use xcast_overlay::{
    accordion::Accordion,
    chord::Chord,
    d1ht,
    epichord::EpiChord,
    kademlia, meridian,
    net::{Fanout, Via},
    others::{can, flood, freenet, tapestry},
    tree::Member,
    walks::{gia, lms},
};
pub use xcast_sim::experiments::Overlay;
use xtask::testbed::{Deployment, Traffic};

pub use self::field::Work;
use self::field::{Field, Subject};
use crate::{
    bed::{Bed, Setup},
    links, replayed,
    table::{Table, percent, saving},
};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Which overlays, one after the other.
    pub overlays: Vec<Overlay>,
    /// What their nodes do.
    pub work: Work,
    /// Which routers speak Xcast.
    pub deployment: Deployment,
}

/// Packets and octets on all links together, octets from the Ethernet header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Crossed {
    /// Packets; each link that one crosses counts.
    pub packets: u64,
    /// Octets, likewise.
    pub octets: u64,
}

/// What is saved against unicast, in percent; none where there is nothing to save.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Saved {
    /// Packets, of messages to several.
    pub lists: Option<f64>,
    /// Packets, of all messages.
    pub all: Option<f64>,
    /// Octets, of all messages.
    pub octets: Option<f64>,
}

/// An overlay's result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which overlay.
    pub overlay: Overlay,
    /// Nodes at a time.
    pub nodes: usize,
    /// Outcomes that there should have been.
    pub asked: usize,
    /// How many there were.
    pub done: usize,
    /// Messages that left.
    pub messages: usize,
    /// Those to several.
    pub lists: usize,
    /// Receivers of all messages.
    pub receivers: usize,
    /// Receivers of those to several.
    pub listed: usize,
    /// What all messages needed as they were sent, as interfaces counted.
    pub sent: Crossed,
    /// What those to one each need.
    pub single: Crossed,
    /// What those to several need as a datagram to each receiver.
    pub apart: Crossed,
    /// What is saved.
    pub saved_percent: Saved,
    /// Links on which the simulator says otherwise, in words.
    pub differ: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which routers speak Xcast.
    pub xcast: String,
    /// Nodes that went meanwhile, each of which was replaced.
    pub changes: usize,
    /// What nodes of each overlay were asked to do.
    pub operations: usize,
    /// Each overlay.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// Where links were crossed by something else than what the simulator makes of the notes.
    pub fn differences(&self) -> Vec<String> {
        let differ = |row: &Row| {
            let name = row.overlay.name();
            let links = row.differ.iter().map(move |link| format!("{name}: {link}"));
            links.collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(differ).collect()
    }
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or nodes do not get ready.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let work = arguments.work;
    ensure!(work.operations > 0, "there is nothing to do");
    let mut bed = Bed::up(setup)?;
    bed.deploy(arguments.deployment)?;
    links::warm_up(&bed)?;
    let mut rows = Vec::new();
    for overlay in &arguments.overlays {
        let measure = match overlay {
            Overlay::Kademlia => measure::<kademlia::Node>,
            Overlay::D1ht => measure::<d1ht::Peer>,
            Overlay::Chord => measure::<Chord>,
            Overlay::EpiChord => measure::<EpiChord>,
            Overlay::Accordion => measure::<Accordion>,
            Overlay::Meridian => measure::<meridian::Node>,
            Overlay::Gia => measure::<gia::Node>,
            Overlay::Lms => measure::<lms::Node>,
            Overlay::Flooding => measure::<flood::Node>,
            Overlay::Tree => measure::<Member>,
            Overlay::Can => measure::<can::Node>,
            Overlay::Tapestry => measure::<tapestry::Node>,
            Overlay::Freenet => measure::<freenet::Node>,
        };
        crate::progress(overlay.name());
        let row = measure(&bed, *overlay, &work).with_context(|| overlay.name())?;
        crate::progress(format!(
            "{}: {} packets crossed links, {} by unicast",
            overlay.name(),
            row.sent.packets,
            row.single.packets + row.apart.packets
        ));
        rows.push(row);
    }
    Ok(Outcome {
        xcast: arguments.deployment.to_string(),
        changes: work.changes,
        operations: work.operations,
        rows,
    })
}

/// One overlay's result.
fn measure<S: Subject>(bed: &Bed, overlay: Overlay, work: &Work) -> Result<Row> {
    links::wait_for_silence(bed)?;
    let (note, notes) = mpsc::channel();
    let mut field = Field::<S>::grown(bed, work, note)?;
    let held = field.hold()?;
    let before = links::when_arrived(bed)?;
    replayed::noted(&notes);
    drop(held);
    let asked = field.work(work)?;
    let held = field.hold()?;
    let after = links::when_arrived(bed)?;
    let sent = traffic_between(&before, after);
    let log = replayed::noted(&notes);
    let mut differ = replayed::differences(bed, &log, &sent)?;
    // Nodes stand still, and their sockets take what comes again.
    let (lists, singles): (Vec<_>, Vec<_>) = log.into_iter().partition(|sent| sent.to.len() > 1);
    let mut again = |messages: &[Fanout]| -> Result<Crossed> {
        let ((), counted) = links::count_all(bed, || resend::by_unicast(bed, messages))?;
        differ.extend(replayed::differences(bed, &apart(messages), &counted)?);
        Ok(crossed(&counted))
    };
    let (single, apart) = (again(&singles)?, again(&lists)?);
    let events = field.events();
    drop(held);
    let nodes = field.count();
    field.end()?;
    let sent = crossed(&sent);
    let listed = lists.iter().map(|list| list.to.len()).sum();
    let [packets, octets] = [
        [sent.packets, single.packets, apart.packets],
        [sent.octets, single.octets, apart.octets],
    ];
    Ok(Row {
        overlay,
        nodes,
        asked,
        done: events.iter().filter(|event| S::is_done(event)).count(),
        messages: lists.len() + singles.len(),
        lists: lists.len(),
        receivers: listed + singles.len(),
        listed,
        sent,
        single,
        apart,
        saved_percent: Saved {
            lists: saving(packets[2], packets[0].saturating_sub(packets[1])),
            all: saving(packets[1] + packets[2], packets[0]),
            octets: saving(octets[1] + octets[2], octets[0]),
        },
        differ,
    })
}

fn traffic_between(before: &[Traffic], after: Vec<Traffic>) -> Vec<Traffic> {
    let links = after.into_iter().zip(before);
    links.map(|(after, before)| after - *before).collect()
}

fn crossed(links: &[Traffic]) -> Crossed {
    Crossed {
        packets: links.iter().map(|link| link.packets).sum(),
        octets: links.iter().map(|link| link.bytes).sum(),
    }
}

/// The same messages, as if there were no router.
fn apart(messages: &[Fanout]) -> Vec<Fanout> {
    let messages = messages.iter().cloned();
    messages
        .map(|message| Fanout {
            via: Via::Unicast,
            ..message
        })
        .collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Each overlay by itself; {} operations, {} nodes replaced meanwhile; routers that speak Xcast: {}.\n\
             Saved against the same messages by unicast, counted by the same interfaces.\n",
            self.operations, self.changes, self.xcast
        )?;
        let mut table = Table::new([
            "overlay",
            "nodes",
            "done",
            "receivers of a list",
            "of all receivers in lists",
            "packets on all links",
            "by unicast",
            "links saved, of lists",
            "of all messages",
            "octets of all",
            "links unlike the simulator",
        ]);
        for row in &self.rows {
            let mean = row.listed as f64 / row.lists.max(1) as f64;
            let listed = 100.0 * row.listed as f64 / row.receivers.max(1) as f64;
            table.row([
                row.overlay.name().to_owned(),
                row.nodes.to_string(),
                format!("{} of {}", row.done, row.asked),
                format!("{mean:.1}"),
                format!("{listed:.0} %"),
                row.sent.packets.to_string(),
                (row.single.packets + row.apart.packets).to_string(),
                percent(row.saved_percent.lists),
                percent(row.saved_percent.all),
                percent(row.saved_percent.octets),
                row.differ.len().to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
