//! Where the programs run. A thread attaches and detaches them, one after the other: a driver may take seconds to
//! rebuild its queues for that, and whoever wants the kernel's lock of interfaces (RTNL) waits as long.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        Xdp, XdpMode,
        links::FdLink,
        xdp::{XdpLink, XdpLinkId},
    },
};
use tokio::sync::Notify;

use super::{handover, object::program, pin::Pins};
use crate::kernel;

/// The links of the ingress program, by slot.
pub(super) struct Links {
    by_slot: HashMap<u8, Link>,
    requests: u64,
    worker: Worker,
    /// The thread, once there was anything to do, and what it has done.
    thread: Option<Thread>,
}

/// What the thread works with.
#[derive(Clone)]
struct Worker {
    programs: Arc<Mutex<Ebpf>>,
    pins: Option<Arc<Pins>>,
    /// Told when something is done.
    done: Arc<Notify>,
    /// What is not begun yet is not wanted any more.
    is_over: Arc<AtomicBool>,
}

struct Thread {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
    handle: thread::JoinHandle<()>,
}

/// The program on an interface.
struct Link {
    ifindex: u32,
    state: State,
}

enum State {
    /// Asked for, with this number.
    Asked(u64),
    Runs(XdpLink),
}

enum Job {
    Attach(Request),
    Detach { ifindex: u32, link: XdpLink },
    HandOver { interface: String },
}

/// That the ingress program runs on an interface.
#[derive(Clone)]
struct Request {
    number: u64,
    slot: u8,
    ifindex: u32,
    /// The router's own interface, if this is the other end: what is handed to the stack has its way first.
    hand_over: Option<String>,
}

struct Outcome {
    request: Request,
    result: Result<XdpLink>,
}

impl Links {
    /// No program runs yet. `done` is told when one does, or cannot.
    pub(super) fn new(programs: Ebpf, pins: Option<Arc<Pins>>, done: Arc<Notify>) -> Self {
        Self {
            by_slot: HashMap::new(),
            requests: 0,
            worker: Worker {
                programs: Arc::new(Mutex::new(programs)),
                pins,
                done,
                is_over: Arc::default(),
            },
            thread: None,
        }
    }

    /// The programs. The thread has them while it waits for a driver.
    pub(super) fn programs(&self) -> MutexGuard<'_, Ebpf> {
        self.worker.programs()
    }

    /// The same, before the thread has anything to do.
    pub(super) fn programs_mut(&mut self) -> Option<&mut Ebpf> {
        let programs = Arc::get_mut(&mut self.worker.programs)?;
        Some(programs.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for the program on an interface; [`take_outcomes`](Self::take_outcomes) tells what became of it.
    pub(super) fn attach(
        &mut self,
        slot: u8,
        ifindex: u32,
        hand_over: Option<String>,
    ) -> Result<()> {
        self.detach(slot);
        self.requests += 1;
        let request = Request {
            number: self.requests,
            slot,
            ifindex,
            hand_over,
        };
        let state = State::Asked(request.number);
        self.ask(Job::Attach(request))?;
        self.by_slot.insert(slot, Link { ifindex, state });
        Ok(())
    }

    /// Has the program taken off a slot's interface, if it is there or was asked for.
    pub(super) fn detach(&mut self, slot: u8) {
        if let Some(Link { ifindex, state }) = self.by_slot.remove(&slot)
            && let State::Runs(link) = state
        {
            // Without the thread the link ends here.
            let _ = self.ask(Job::Detach { ifindex, link });
        }
    }

    /// Asks for the way of copies to the kernel's stack once more. What cannot be done is logged.
    pub(super) fn hand_over(&mut self, interface: &str) -> Result<()> {
        self.ask(Job::HandOver {
            interface: interface.to_owned(),
        })
    }

    /// What became of programs that were asked for, by slot.
    pub(super) fn take_outcomes(&mut self) -> Vec<(u8, Result<()>)> {
        let mut outcomes = Vec::new();
        let done: Vec<_> = match &self.thread {
            Some(thread) => thread.outcomes.try_iter().collect(),
            None => Vec::new(),
        };
        for Outcome { request, result } in done {
            let (slot, ifindex) = (request.slot, request.ifindex);
            let wanted = self.by_slot.get_mut(&slot).filter(
                |link| matches!(link.state, State::Asked(number) if number == request.number),
            );
            match (wanted, result) {
                (Some(wanted), Ok(link)) => {
                    wanted.state = State::Runs(link);
                    outcomes.push((slot, Ok(())));
                }
                (Some(_), Err(error)) => {
                    self.by_slot.remove(&slot);
                    outcomes.push((slot, Err(error)));
                }
                (None, Ok(link)) => self.give_back(ifindex, link),
                (None, Err(_)) => {}
            }
        }
        outcomes
    }

    /// The interfaces that the program runs on, by slot.
    pub(super) fn attached(&self) -> HashMap<u8, u32> {
        let links = self.by_slot.iter();
        let running = links.filter(|(_, link)| matches!(link.state, State::Runs(_)));
        running.map(|(slot, link)| (*slot, link.ifindex)).collect()
    }

    /// Ends the thread, after what it has begun.
    pub(super) fn stop(&mut self) {
        self.worker.is_over.store(true, Ordering::Relaxed);
        if let Some(Thread { jobs, handle, .. }) = self.thread.take() {
            drop(jobs);
            let _ = handle.join();
        }
    }

    /// Has a link ended that nobody wants any more. If somebody wants the same again, the pin is theirs.
    fn give_back(&mut self, ifindex: u32, link: XdpLink) {
        if !self.by_slot.values().any(|link| link.ifindex == ifindex) {
            let _ = self.ask(Job::Detach { ifindex, link });
        }
    }

    fn ask(&mut self, job: Job) -> Result<()> {
        let thread = match &self.thread {
            Some(thread) => thread,
            None => self.thread.insert(self.worker.clone().start()?),
        };
        thread
            .jobs
            .send(job)
            .map_err(|_| anyhow::anyhow!("the thread that attaches programs has ended"))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // Nobody waits for a driver here. What it does to the last job, the next generation finds.
        self.worker.is_over.store(true, Ordering::Relaxed);
    }
}

impl Worker {
    fn programs(&self) -> MutexGuard<'_, Ebpf> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self) -> Result<Thread> {
        let (jobs, queue) = channel();
        let (tell, outcomes) = channel();
        let handle = thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || self.work(&queue, &tell))
            .context("cannot start a thread")?;
        Ok(Thread {
            jobs,
            outcomes,
            handle,
        })
    }

    fn work(&self, queue: &Receiver<Job>, tell: &Sender<Outcome>) {
        for job in queue {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            match job {
                Job::Attach(request) => {
                    let result = self.attach(&request);
                    if tell.send(Outcome { request, result }).is_err() {
                        return;
                    }
                    self.done.notify_one();
                }
                Job::Detach { ifindex, link } => {
                    if let Some(pins) = &self.pins {
                        pins.remove(&Pins::link_name(ifindex));
                    }
                    drop(link);
                }
                Job::HandOver { interface } => {
                    let mut programs = self.programs();
                    if let Err(error) = handover::attach(&mut programs, &interface) {
                        tracing::warn!("{interface}: {:#}", anyhow::Error::from(error));
                    }
                }
            }
        }
    }

    fn attach(&self, request: &Request) -> Result<XdpLink> {
        let mut programs = self.programs();
        if let Some(interface) = &request.hand_over {
            handover::attach(&mut programs, interface)?;
        }
        let program = program(&mut programs, "xcast")?;
        let ifindex = request.ifindex;
        attach(self.pins.as_deref(), program, ifindex).map_err(|error| {
            let merging = kernel::merging_offloads(ifindex);
            match merging.as_slice() {
                [] => error,
                // Which is why, most likely.
                names => error.context(format!(
                    "the driver makes one frame of several that arrive: switch it off with ethtool -K ({} off)",
                    names.join(" off, ")
                )),
            }
        })
    }
}

/// Has a program run on an interface, in native mode. Where a predecessor's does, this replaces it, between two
/// packets.
fn attach(pins: Option<&Pins>, program: &mut Xdp, ifindex: u32) -> Result<XdpLink> {
    let Some(pins) = pins else {
        let id = program.attach_to_if_index(ifindex, XdpMode::Driver)?;
        return Ok(program.take_link(id)?);
    };
    if let Some(link) = pins.live_link(ifindex)? {
        return replace(program, link);
    }
    let name = Pins::link_name(ifindex);
    pins.remove(&name);
    let id = program.attach_to_if_index(ifindex, XdpMode::Driver)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    let pinned = link.pin(pins.path(&name)).context("cannot pin a link")?;
    replace(program, pinned.into())
}

/// Has a link run another program.
fn replace(program: &mut Xdp, link: FdLink) -> Result<XdpLink> {
    let id: XdpLinkId = program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(program.take_link(id)?)
}
