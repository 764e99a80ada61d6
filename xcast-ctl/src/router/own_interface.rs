//! The router's own veth pair, watched: whatever network managers, udev or people change is put right.
//!
//! A thread of its own looks at the pair once a second, and at once when the loop has seen a change
//! ([`OwnInterface::look`]). What it finds goes to [`repairs`], which says what to do about it; the
//! rest is I/O. A pair that somebody removed is made again, and the loop is told
//! ([`OwnInterface::changed`]), for the programs have to be attached to the new one; and so it is when
//! somebody took them off this one.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use tokio::{sync::mpsc, time::timeout};
use tracing::{info, warn};

use crate::{
    config::{Config, DATAPATH_SUFFIX},
    datapath::{
        foreign, handover,
        ownership::ALIAS,
        veth::{self, MTU_BYTES, VethPair, settings},
    },
    kernel::{self, Link, XdpPlace},
};

/// How often the pair is looked at without a reason. No event tells of GRO and of most settings.
const TICK: Duration = Duration::from_secs(1);
/// Pause after repairs: somebody who undoes them at once is not fought at full speed.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause before a repair that changed nothing is tried again; each further pause is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Looks in a row: a repair may need another one first (settings come back with the MTU).
const ROUNDS: usize = 3;

/// What has been found and done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Things put right.
    pub(super) repairs: u64,
    /// What could not be put right at the last look.
    pub(super) fault: Option<String>,
}

/// What the loop has to do.
#[derive(Debug)]
pub(super) enum Change {
    /// Go on with this pair, which was made instead of one that somebody removed.
    Replaced(VethPair),
    /// Attach the programs again, which somebody took off.
    Programs,
    /// Only the filter that hands copies over.
    HandOver,
}

/// Handle to the thread. Dropping it ends the watch.
pub(super) struct OwnInterface {
    requests: Option<mpsc::UnboundedSender<()>>,
    changes: mpsc::UnboundedReceiver<Change>,
    /// Id of the program that runs on the datapath's end; 0 while none needs to.
    program: Arc<AtomicU32>,
    report: Arc<Mutex<Report>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl OwnInterface {
    /// Starts the thread, in the network namespace of the calling one.
    ///
    /// # Errors
    ///
    /// The thread, or what it waits with, cannot be had.
    pub(super) fn watch(config: &Config, pair: &VethPair) -> Result<Self> {
        let (requests, queue) = mpsc::unbounded_channel();
        let (tell, changes) = mpsc::unbounded_channel();
        let program = Arc::new(AtomicU32::new(0));
        let report = Arc::new(Mutex::new(Report::default()));
        let wanted = Wanted {
            name: config.router.interface.clone(),
            peer: config.router.datapath_interface(),
            address: config.router.address,
            ipv6: config.code_points.ipv6.is_some(),
            pair: pair.clone(),
            program: Arc::clone(&program),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the watch over the router's own interface")?;
        let published = Arc::clone(&report);
        let thread = thread::Builder::new()
            .name("own-interface".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(watch(wanted, queue, &tell, &published)) {
                    warn!("the router's own interface is not watched: {error:#}");
                }
            })
            .context("cannot start the watch over the router's own interface")?;
        Ok(Self {
            requests: Some(requests),
            changes,
            program,
            report,
            thread: Some(thread),
        })
    }

    /// Something may have happened to the pair.
    pub(super) fn look(&self) {
        if let Some(requests) = &self.requests {
            // The thread only ends with this handle.
            let _ = requests.send(());
        }
    }

    /// Waits until there is something for the loop to do. For ever, if the thread is gone.
    pub(super) async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }

    /// From now on the program with this id runs on the datapath's end, and the way to the stack is there; `None` while
    /// they are being attached.
    pub(super) fn expect_program(&self, id: Option<u32>) {
        self.program.store(id.unwrap_or(0), Ordering::Relaxed);
    }

    /// What has been found and done so far.
    pub(super) fn report(&self) -> Report {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for OwnInterface {
    fn drop(&mut self) {
        // Afterwards nobody makes the pair again.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The pair as it has to be.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    peer: String,
    address: Ipv4Addr,
    ipv6: bool,
    pair: VethPair,
    /// See [`OwnInterface::program`].
    program: Arc<AtomicU32>,
}

impl Wanted {
    fn ends(&self) -> [(u32, &str, [u8; 6]); 2] {
        let macs = self.pair.macs;
        [
            (self.pair.host, &self.name, macs.destination),
            (self.pair.datapath, &self.peer, macs.source),
        ]
    }
}

/// The pair as it is.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Its ends, host first; without those that are not in this namespace any more.
    ends: Vec<Link>,
    /// IPv4 addresses of the host's end.
    addresses: Vec<Ipv4Addr>,
    /// Receive offload of the host's end, where the kernel tells.
    gro: Option<bool>,
    /// The values of [`settings`] that exist, in their order.
    settings: Vec<Option<u32>>,
    /// The filter that hands copies over to the ports, where the kernel tells.
    hand_over: Option<bool>,
    /// What others run before that filter.
    before_handover: Vec<String>,
}

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Repair {
    /// Make the pair again.
    Remake,
    Rename {
        ifindex: u32,
        name: String,
    },
    Mac {
        ifindex: u32,
        name: String,
        mac: [u8; 6],
    },
    Mtu {
        ifindex: u32,
        name: String,
    },
    Release {
        ifindex: u32,
        name: String,
    },
    Up {
        ifindex: u32,
        name: String,
    },
    Address,
    Gro,
    Setting {
        path: String,
        value: u32,
    },
    /// What says that a router made it.
    Alias {
        ifindex: u32,
        name: String,
    },
    /// Attach the programs again.
    Programs,
    /// Only the filter that hands copies over.
    HandOver,
    /// Take somebody's XDP program off the host's end, where it gets all that the kernel's stack is to have.
    TakeOff {
        ifindex: u32,
        name: String,
        program: u32,
        place: XdpPlace,
    },
}

impl Repair {
    /// The loop carries it out, some time later.
    fn is_left_to_loop(&self) -> bool {
        matches!(self, Self::Programs | Self::HandOver)
    }
}

/// Repairs that did not help. They are tried again, but ever less often.
#[derive(Debug, Default)]
struct InVain(Vec<Attempt>);

/// Such a repair.
#[derive(Debug)]
struct Attempt {
    repair: Repair,
    why: String,
    count: u32,
    /// When it is tried again.
    again: Instant,
}

impl InVain {
    /// Forgets those that are not needed any more.
    fn retain(&mut self, needed: &[Repair]) {
        self.0.retain(|attempt| needed.contains(&attempt.repair));
    }

    /// Whether it is too early to try a repair again.
    fn is_waiting(&self, repair: &Repair, now: Instant) -> bool {
        let mut attempts = self.0.iter();
        attempts.any(|attempt| attempt.repair == *repair && now < attempt.again)
    }

    /// A repair did not help.
    fn note(&mut self, repair: &Repair, why: String, now: Instant) {
        let before = self.0.iter().position(|attempt| attempt.repair == *repair);
        let before = before.map_or(0, |index| self.0.swap_remove(index).count);
        let delay = FIRST_RETRY.saturating_mul(1 << before.min(10));
        self.0.push(Attempt {
            repair: repair.clone(),
            why,
            count: before + 1,
            again: now + delay.min(LAST_RETRY),
        });
    }

    /// What they are, and why they did not help.
    fn texts(&self) -> impl Iterator<Item = String> {
        let text = |attempt: &Attempt| format!("{:?}: {}", attempt.repair, attempt.why);
        self.0.iter().map(text)
    }
}

/// What has to be done so that the pair is as it has to be.
fn repairs(wanted: &Wanted, settings: &[(String, u32)], seen: &Seen) -> Vec<Repair> {
    let mut repairs = Vec::new();
    for (ifindex, name, mac) in wanted.ends() {
        let name = name.to_owned();
        let Some(link) = seen.ends.iter().find(|link| link.ifindex == ifindex) else {
            return vec![Repair::Remake];
        };
        if link.name != name {
            repairs.push(Repair::Rename { ifindex, name });
            // Everything else goes by the name.
            return repairs;
        }
        if link.mac != Some(mac) {
            let name = name.clone();
            repairs.push(Repair::Mac { ifindex, name, mac });
        }
        if link.mtu != MTU_BYTES {
            let name = name.clone();
            repairs.push(Repair::Mtu { ifindex, name });
        }
        if link.master.is_some() {
            let name = name.clone();
            repairs.push(Repair::Release { ifindex, name });
        }
        if link.alias.as_deref() != Some(ALIAS) {
            let name = name.clone();
            repairs.push(Repair::Alias { ifindex, name });
        }
        if !link.up {
            repairs.push(Repair::Up { ifindex, name });
        }
    }
    let (host, name, _) = wanted.ends()[0];
    let foreign = seen.ends.iter().find(|link| link.ifindex == host);
    if let Some(link) = foreign
        && let Some(program) = link.xdp_program
    {
        repairs.push(Repair::TakeOff {
            ifindex: host,
            name: name.to_owned(),
            program,
            place: link.xdp_place,
        });
    }
    let program = wanted.program.load(Ordering::Relaxed);
    let runs = |link: &Link| link.xdp_program == Some(program);
    if program != 0 && !seen.ends.last().is_some_and(runs) {
        repairs.push(Repair::Programs);
    } else if program != 0 && seen.hand_over == Some(false) {
        repairs.push(Repair::HandOver);
    }
    if !seen.addresses.contains(&wanted.address) {
        repairs.push(Repair::Address);
    }
    if seen.gro == Some(false) {
        repairs.push(Repair::Gro);
    }
    for ((path, value), seen) in settings.iter().zip(&seen.settings) {
        if seen.is_some_and(|seen| seen != *value) {
            repairs.push(Repair::Setting {
                path: path.clone(),
                value: *value,
            });
        }
    }
    repairs
}

async fn watch(
    mut wanted: Wanted,
    mut requests: mpsc::UnboundedReceiver<()>,
    tell: &mpsc::UnboundedSender<Change>,
    report: &Mutex<Report>,
) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    let mut told = None;
    let mut in_vain = InVain::default();
    loop {
        if let Ok(None) = timeout(TICK, requests.recv()).await {
            return Ok(());
        }
        // One look serves them all.
        while requests.try_recv().is_ok() {}
        let outcome = put_right(&mut wanted, &mut in_vain, &handle, tell).await;
        let (count, fault) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => (0, Some(format!("{error:#}"))),
        };
        if fault != told {
            match &fault {
                Some(fault) => warn!("the router's own interface cannot be put right: {fault}"),
                None => info!("the router's own interface is right again"),
            }
            told.clone_from(&fault);
        }
        {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.repairs += count;
            report.fault = fault;
        }
        if count > 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Looks, and repairs what is not right. Returns the number of repairs that helped, and what is left to others.
async fn put_right(
    wanted: &mut Wanted,
    in_vain: &mut InVain,
    handle: &Handle,
    tell: &mpsc::UnboundedSender<Change>,
) -> Result<(u64, Option<String>)> {
    let mut done: Vec<Repair> = Vec::new();
    let mut round = 0;
    let in_the_way = loop {
        let settings = settings(&wanted.name, &wanted.peer, wanted.ipv6);
        let seen = look(wanted, &settings)?;
        let needed = repairs(wanted, &settings, &seen);
        in_vain.retain(&needed);
        let now = Instant::now();
        if round == ROUNDS {
            let (vain, helped) = done
                .into_iter()
                .partition(|repair| needed.contains(repair) && !repair.is_left_to_loop());
            done = helped;
            for repair in &vain {
                in_vain.note(repair, "it changes nothing".to_owned(), now);
            }
            break in_the_way(&wanted.name, &seen.before_handover);
        }
        let is_asked = |repair: &Repair| repair.is_left_to_loop() && done.contains(repair);
        let mut due = needed;
        due.retain(|repair| !in_vain.is_waiting(repair, now) && !is_asked(repair));
        if due.is_empty() {
            break in_the_way(&wanted.name, &seen.before_handover);
        }
        for repair in &due {
            if !done.contains(repair) {
                warn!(
                    "{}: somebody changed it; putting right: {repair:?}",
                    wanted.name
                );
                done.push(repair.clone());
            }
            if let Err(error) = carry_out(repair, wanted, handle, tell).await {
                in_vain.note(repair, format!("{error:#}"), now);
                done.retain(|other| other != repair);
            }
        }
        round += 1;
    };
    let faults: Vec<_> = in_vain.texts().chain(in_the_way).collect();
    let fault = (!faults.is_empty()).then(|| faults.join("; "));
    Ok((done.len() as u64, fault))
}

/// What programs of others do before copies are handed over. Who put them there may want them, so they stay.
fn in_the_way(name: &str, before_handover: &[String]) -> Option<String> {
    (!before_handover.is_empty()).then(|| {
        format!(
            "{} on {name} come before {}: copies that they take or end with are lost to the stack, or arrive by {name} and not \
             by their port (see: xcast-ctl check)",
            before_handover.join(", "),
            handover::NAME
        )
    })
}

fn look(wanted: &Wanted, settings: &[(String, u32)]) -> Result<Seen> {
    let mut ends = Vec::new();
    for (ifindex, _, _) in wanted.ends() {
        ends.extend(kernel::link(ifindex)?);
    }
    Ok(Seen {
        addresses: kernel::ipv4_addresses(wanted.pair.host)?,
        gro: kernel::gro(&wanted.name),
        hand_over: kernel::ingress_filters(wanted.pair.host, handover::NAME)
            .ok()
            .map(|filters| !filters.is_empty()),
        before_handover: foreign::before_handover(wanted.pair.host),
        settings: settings
            .iter()
            .map(|(path, _)| kernel::sysctl(path))
            .collect(),
        ends,
    })
}

async fn carry_out(
    repair: &Repair,
    wanted: &mut Wanted,
    handle: &Handle,
    tell: &mpsc::UnboundedSender<Change>,
) -> Result<()> {
    let set = async |message| handle.link().set(message).execute().await;
    let of = LinkUnspec::new_with_index;
    match repair {
        Repair::Remake => {
            // Where one end is left, or has been moved away, the rest goes first.
            for (ifindex, _, _) in wanted.ends() {
                if kernel::link(ifindex)?.is_some() {
                    let _ = handle.link().del(ifindex).execute().await;
                }
            }
            let Wanted {
                name,
                peer,
                address,
                ipv6,
                ..
            } = &*wanted;
            let pair = VethPair::create(handle, name, peer, *address, *ipv6).await?;
            wanted.pair = pair.clone();
            // The loop is there as long as this is.
            wanted.program.store(0, Ordering::Relaxed);
            let _ = tell.send(Change::Replaced(pair));
        }
        Repair::Programs => {
            // The loop says when they are there.
            wanted.program.store(0, Ordering::Relaxed);
            let _ = tell.send(Change::Programs);
        }
        Repair::HandOver => {
            let _ = tell.send(Change::HandOver);
        }
        Repair::TakeOff {
            ifindex,
            program,
            place,
            ..
        } => foreign::take_xdp_off(*ifindex, *program, *place)?,
        Repair::Alias { ifindex, .. } => {
            let alias = LinkAttribute::IfAlias(ALIAS.to_owned());
            set(of(*ifindex).append_extra_attribute(alias).build()).await?;
        }
        Repair::Rename { ifindex, name } => {
            set(of(*ifindex).down().build()).await?;
            set(of(*ifindex).name(name.as_str()).build()).await?;
        }
        Repair::Mac { ifindex, mac, .. } => set(of(*ifindex).address(mac.to_vec()).build()).await?,
        Repair::Mtu { ifindex, .. } => set(of(*ifindex).mtu(MTU_BYTES).build()).await?,
        Repair::Release { ifindex, .. } => set(of(*ifindex).nocontroller().build()).await?,
        Repair::Up { ifindex, .. } => set(of(*ifindex).up().build()).await?,
        Repair::Address => {
            veth::add_address(handle, wanted.pair.host, wanted.address).await?;
        }
        Repair::Gro => kernel::set_gro(&wanted.name, true)?,
        Repair::Setting { path, value } => kernel::set_sysctl(path, *value)?,
    }
    Ok(())
}

/// Whether an interface of this name is one of the pair's ends.
pub(super) fn is_end(config: &Config, name: &str) -> bool {
    let own = config.router.interface.as_str();
    name == own || name.strip_suffix(DATAPATH_SUFFIX) == Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Macs;

    fn wanted() -> Wanted {
        Wanted {
            name: "xcast0".to_owned(),
            peer: "xcast0-dp".to_owned(),
            address: Ipv4Addr::new(169, 254, 88, 1),
            ipv6: true,
            pair: VethPair {
                host: 7,
                datapath: 8,
                macs: Macs {
                    destination: [2, 0, 0, 0, 0, 1],
                    source: [2, 0, 0, 0, 0, 2],
                },
            },
            program: Arc::new(AtomicU32::new(5)),
        }
    }

    fn wanted_settings() -> Vec<(String, u32)> {
        vec![("ipv4/conf/xcast0/forwarding".to_owned(), 1)]
    }

    fn right() -> Seen {
        let end = |(ifindex, name, mac): (u32, &str, [u8; 6])| Link {
            ifindex,
            name: name.to_owned(),
            mac: Some(mac),
            mtu: MTU_BYTES,
            up: true,
            alias: Some(ALIAS.to_owned()),
            xdp_program: (ifindex == 8).then_some(5),
            ..Link::default()
        };
        Seen {
            ends: wanted().ends().map(end).to_vec(),
            addresses: vec![Ipv4Addr::new(169, 254, 88, 1)],
            gro: Some(true),
            settings: vec![Some(1)],
            hand_over: Some(true),
            before_handover: Vec::new(),
        }
    }

    #[track_caller]
    fn assert_repairs(change: impl Fn(&mut Seen), expected: &[Repair]) {
        let mut seen = right();
        change(&mut seen);
        assert_eq!(repairs(&wanted(), &wanted_settings(), &seen), expected);
    }

    #[test]
    fn what_is_right_is_left_alone() {
        assert_repairs(|_| {}, &[]);
        // A kernel without that setting; further addresses.
        assert_repairs(|seen| seen.settings[0] = None, &[]);
        assert_repairs(|seen| seen.addresses.push(Ipv4Addr::LOCALHOST), &[]);
    }

    #[test]
    fn what_does_not_help_is_tried_less_often() {
        let (start, mut in_vain) = (Instant::now(), InVain::default());
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            in_vain.note(&Repair::Gro, "no".to_owned(), now);
            let until = now + Duration::from_secs(seconds);
            assert!(in_vain.is_waiting(&Repair::Gro, until - Duration::from_millis(1)));
            assert!(!in_vain.is_waiting(&Repair::Gro, until));
            now = until;
        }
        assert!(!in_vain.is_waiting(&Repair::Address, start));
        assert!(in_vain.texts().eq(["Gro: no"]));
        in_vain.retain(&[Repair::Gro]);
        assert_eq!(in_vain.texts().count(), 1);
        in_vain.retain(&[Repair::Address]);
        assert_eq!(in_vain.texts().count(), 0);
    }

    #[test]
    fn what_is_not_right_is_repaired() {
        let name = || "xcast0-dp".to_owned();
        let ifindex = 8;
        let mac = [2, 0, 0, 0, 0, 2];
        assert_repairs(
            |seen| seen.ends[1].mac = Some([9; 6]),
            &[Repair::Mac {
                ifindex,
                name: name(),
                mac,
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].mtu = 700,
            &[Repair::Mtu {
                ifindex,
                name: name(),
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].up = false,
            &[Repair::Up {
                ifindex,
                name: name(),
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].master = Some(3),
            &[Repair::Release {
                ifindex,
                name: name(),
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].name = "eth7".to_owned(),
            &[Repair::Rename {
                ifindex,
                name: name(),
            }],
        );
        assert_repairs(|seen| seen.addresses.clear(), &[Repair::Address]);
        assert_repairs(|seen| seen.gro = Some(false), &[Repair::Gro]);
        assert_repairs(
            |seen| seen.settings[0] = Some(0),
            &[Repair::Setting {
                path: "ipv4/conf/xcast0/forwarding".to_owned(),
                value: 1,
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].alias = None,
            &[Repair::Alias {
                ifindex,
                name: name(),
            }],
        );
        assert_repairs(
            |seen| seen.ends[1].xdp_program = Some(6),
            &[Repair::Programs],
        );
        assert_repairs(|seen| seen.hand_over = Some(false), &[Repair::HandOver]);
        assert_repairs(
            |seen| seen.ends[0].xdp_program = Some(6),
            &[Repair::TakeOff {
                ifindex: 7,
                name: "xcast0".to_owned(),
                program: 6,
                place: XdpPlace::Driver,
            }],
        );
        assert_repairs(|seen| drop(seen.ends.pop()), &[Repair::Remake]);
        let (wanted, mut seen) = (wanted(), right());
        seen.ends[1].xdp_program = None;
        wanted.program.store(0, Ordering::Relaxed);
        assert_eq!(repairs(&wanted, &wanted_settings(), &seen), []);
    }
}
