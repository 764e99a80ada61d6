//! Serves sources that ask for a cookie: the shell around [`relay`], which decides.
//!
//! Questions come to the port of Xcast inside UDP, where the programs let them pass. Tasks answer them, and hand on what
//! comes to relayed ports; the event loop writes keys, and says how much there is to do.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use tokio::{net::UdpSocket, task::JoinHandle};
use tracing::{debug, warn};
use xcast_common::{
    forward::limits::{price_ns, take},
    maps::{COOKIE_KEYS, CookieKey, PortCounters, counter::Counter},
    wire::cookie,
};
use xcast_host::relay::message::{Answer, LEN, Question, encode_reply};
use xcast_overlay::backbone::relay::{self, Allocation, Change, Wish, Work};

use crate::{
    config::{self, Config},
    datapath::Datapath,
    kernel::{self, AddressedSocket},
    report,
};

/// Longest datagram that a relayed port hands on, in octets.
const BUFFER: usize = 1 << 16;

/// A relay, if the router is one.
pub(super) struct Relay(Option<Serving>);

struct Serving {
    state: Arc<Mutex<relay::Relay>>,
    settings: config::Relay,
    port: u16,
    ipv6: bool,
    instance: u64,
    /// Keys as they are in the datapath.
    keys: [CookieKey; COOKIE_KEYS],
    /// One for each family, once the port is free.
    tasks: Vec<JoinHandle<()>>,
    /// Why questions are not answered.
    fault: Option<String>,
    /// How often the port could not be had.
    attempts: u32,
    /// What was counted at this time.
    counted: Option<(Instant, Work)>,
}

impl Relay {
    /// Makes ready to answer. `shared` is a secret that routers hand to those that take over from them.
    ///
    /// # Errors
    ///
    /// The file with the secret cannot be read, or has none.
    pub(super) fn start(config: &Config, shared: u64) -> Result<Self> {
        let (Some(settings), Some(udp)) = (&config.relay, &config.udp) else {
            return Ok(Self(None));
        };
        let secret = match &settings.secret_file {
            Some(path) => read_secret(path)?,
            None => derive_secret(shared),
        };
        let state = relay::Relay::new(relay::Settings {
            secret,
            instance: cookie::siphash([shared, 0x5058], [2, 0, 0]) as u32,
            questions_per_second: settings.questions_per_second,
            relayed_ports: settings.relayed_ports(),
            envelope_port: settings.envelopes.then_some(udp.port.get()),
            capacity: settings.capacity_copies_per_second,
        });
        Ok(Self(Some(Serving {
            state: Arc::new(Mutex::new(state)),
            settings: settings.clone(),
            port: udp.port.get(),
            ipv6: config.code_points.ipv6.is_some(),
            instance: kernel::random()?,
            keys: [CookieKey::default(); COOKIE_KEYS],
            tasks: Vec::new(),
            fault: None,
            attempts: 0,
            counted: None,
        })))
    }

    /// Gives the programs the keys, before the first packet.
    pub(super) fn write_keys(&mut self, datapath: &mut Datapath) {
        if let Some(serving) = &mut self.0 {
            serving.write_keys(datapath);
        }
    }

    /// Does what is due, once a second: keys change, and the port may be free by now.
    pub(super) fn tend(&mut self, datapath: &mut Datapath) {
        let Some(serving) = &mut self.0 else { return };
        serving.write_keys(datapath);
        serving.listen();
        match datapath.counters() {
            Ok(counters) => serving.note(&counters),
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }

    /// For the `backbone` verb.
    pub(super) fn report(&self) -> Option<report::Relay> {
        let serving = self.0.as_ref()?;
        let state = lock(&serving.state);
        let statistics = state.statistics();
        let ago = |at: Instant| at.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let allocation = |allocation: &Allocation| report::RelayedPort {
            port: allocation.port,
            source: allocation.source,
        };
        let ports = serving.settings.relayed_ports();
        Some(report::Relay {
            port: serving.port,
            fault: serving.fault.clone(),
            busy: state.is_busy(),
            load_percent: state.load_percent(),
            questions_answered: statistics.answered,
            questions_ignored: statistics.ignored,
            last_answer_ms_ago: statistics.last_answer.map(ago),
            relayed_ports: ports.map_or(0, |ports| ports.len()),
            relayed: state.allocations().map(allocation).collect(),
            without_port: statistics.without_port,
        })
    }
}

impl Serving {
    fn write_keys(&mut self, datapath: &mut Datapath) {
        let keys = lock(&self.state).keys(unix_seconds());
        if keys == self.keys {
            return;
        }
        match datapath.set_cookie_keys(&keys) {
            Ok(()) => self.keys = keys,
            Err(error) => warn!("{:#}; it is tried again", anyhow::Error::from(error)),
        }
    }

    /// Opens the sockets. Another router, from which this one takes over, may still have the port.
    fn listen(&mut self) {
        if !self.tasks.is_empty() {
            return;
        }
        let families: &[bool] = if self.ipv6 { &[false, true] } else { &[false] };
        let bind = |ipv6: &bool| AddressedSocket::bind(*ipv6, self.port);
        match families.iter().map(bind).collect::<Result<Vec<_>, _>>() {
            Ok(sockets) => {
                self.fault = None;
                let serve = |socket: AddressedSocket| {
                    let answering = Answering {
                        port: self.port,
                        socket: Arc::new(socket),
                        state: self.state.clone(),
                        instance: self.instance,
                        reply_ns: price_ns(self.settings.replies_per_second).into(),
                        relayed: HashMap::new(),
                    };
                    tokio::spawn(answering.run())
                };
                self.tasks = sockets.into_iter().map(serve).collect();
            }
            Err(error) => {
                let fault = format!("cannot take questions at UDP port {}: {error}", self.port);
                // The router before this one lets go of it within a moment.
                self.attempts += 1;
                if self.attempts == 3 {
                    warn!("{fault}; it is tried again");
                }
                self.fault = Some(fault);
            }
        }
    }

    /// Says how much there was to do since it was last said.
    fn note(&mut self, counters: &[PortCounters]) {
        const LOST: [Counter; 3] = [
            Counter::DropStackLimit,
            Counter::DropPlanLost,
            Counter::DropRedirect,
        ];
        let sum = |counter: Counter| -> u64 {
            counters
                .iter()
                .map(|port| port.counts[counter as usize])
                .sum()
        };
        let counted = Work {
            copies: sum(Counter::Planned),
            lost: LOST.into_iter().map(sum).sum(),
        };
        let now = Instant::now();
        if let Some((at, before)) = self.counted.replace((now, counted)) {
            let work = Work {
                copies: counted.copies.saturating_sub(before.copies),
                lost: counted.lost.saturating_sub(before.lost),
            };
            lock(&self.state).note(work, now - at);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Answers the questions of one family.
struct Answering {
    /// That of Xcast inside UDP, where questions come to, and envelopes from.
    port: u16,
    socket: Arc<AddressedSocket>,
    state: Arc<Mutex<relay::Relay>>,
    instance: u64,
    /// What a datagram that is handed on costs, in nanoseconds of its port's budget.
    reply_ns: u64,
    relayed: HashMap<u16, JoinHandle<()>>,
}

impl Answering {
    async fn run(mut self) {
        let mut buffer = [0; LEN + 1];
        loop {
            let arrived = match self.socket.receive(&mut buffer).await {
                Ok(arrived) => arrived,
                // Of one datagram that could not be sent, for example.
                Err(error) => {
                    debug!("questions: {error}");
                    continue;
                }
            };
            let Some(question) = Question::decode(&buffer[..arrived.len]) else {
                continue;
            };
            let wish = Wish {
                source: arrived.from,
                at: arrived.at,
                cookie: question.cookie,
                wants: question.wants,
            };
            let answer = {
                let mut state = lock(&self.state);
                let grant = state.ask(Instant::now(), unix_seconds(), &wish);
                grant.map(|grant| Answer {
                    nonce: question.nonce,
                    through: question.through,
                    busy: state.is_busy(),
                    load_percent: state.load_percent(),
                    seen: arrived.from,
                    lifetime: grant.lifetime,
                    cookie: grant.cookie,
                    relayed: grant.relayed,
                    instance: self.instance,
                })
            };
            let Some(mut answer) = answer else { continue };
            if !self.follow_ports(&answer).await {
                answer.relayed = None;
            }
            let sent = self.socket.send(&answer.encode(), arrived.at, arrived.from);
            if let Err(error) = sent {
                debug!("answer to {}: {error}", arrived.from);
            }
        }
    }

    /// Opens and closes relayed ports; whether that of the answer is open.
    async fn follow_ports(&mut self, answer: &Answer) -> bool {
        let changes = lock(&self.state).take_changes();
        for change in changes {
            match change {
                Change::Close(port) => {
                    if let Some(task) = self.relayed.remove(&port) {
                        task.abort();
                        // The socket is closed when the task has ended.
                        let _ = task.await;
                    }
                }
                Change::Open(allocation) => match self.open(allocation).await {
                    Ok(task) => {
                        self.relayed.insert(allocation.port, task);
                    }
                    Err(error) => {
                        warn!("relayed port {}: {error:#}", allocation.port);
                        lock(&self.state).give_up(allocation.port);
                    }
                },
            }
        }
        let port = answer.relayed_port();
        port.is_some_and(|port| port == self.port || self.relayed.contains_key(&port))
    }

    async fn open(&self, allocation: Allocation) -> Result<JoinHandle<()>> {
        let socket = UdpSocket::bind((allocation.at, allocation.port))
            .await
            .with_context(|| format!("cannot bind to {}", allocation.at))?;
        let way_back = self.socket.clone();
        let price = self.reply_ns;
        Ok(tokio::spawn(async move {
            let (mut buffer, mut until) = (vec![0; BUFFER], 0);
            loop {
                let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
                    continue;
                };
                // More than its source may be sent is dropped here.
                let Some(next) = take(until, monotonic_ns(), price) else {
                    continue;
                };
                until = next;
                let reply = encode_reply(from, &buffer[..len]);
                if let Err(error) = way_back.send(&reply, allocation.at, allocation.source) {
                    debug!("reply to {}: {error}", allocation.source);
                }
            }
        }))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.relayed.values().for_each(JoinHandle::abort);
    }
}

/// The state; whoever panicked with it left it whole, for each of its changes is one.
fn lock(state: &Mutex<relay::Relay>) -> MutexGuard<'_, relay::Relay> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Nanoseconds of the monotonic clock.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// A secret of its own from one that is used for something else, too.
fn derive_secret(shared: u64) -> [u8; 16] {
    let word = |number| cookie::siphash([shared, 0x5058], [number, 0, 0]);
    (u128::from(word(0)) << 64 | u128::from(word(1))).to_be_bytes()
}

fn read_secret(path: &Path) -> Result<[u8; 16]> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .with_context(|| format!("relay.secret_file: cannot read {shown}"))?;
    let digits = text.trim();
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match u128::from_str_radix(digits, 16) {
        Ok(number) if is_hex => Ok(number.to_be_bytes()),
        _ => bail!(
            "relay.secret_file: {shown} is to hold 32 hexadecimal digits: \
             od -An -N16 -tx8 /dev/urandom | tr -d ' ' makes some"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_what_is_none_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            read_secret(file.path())
        };
        let digits = "000102030405060708090a0b0c0d0e0f";
        let octets = std::array::from_fn(|n| n as u8);
        assert_eq!(read(&format!("{digits}\n")).unwrap(), octets);
        for text in ["", "00", "+00102030405060708090a0b0c0d0e0f", "no secret"] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains("relay.secret_file"), "{error}");
        }
        assert!(read_secret(Path::new("/nonexistent")).is_err());
        assert_ne!(derive_secret(1), derive_secret(2));
    }
}
