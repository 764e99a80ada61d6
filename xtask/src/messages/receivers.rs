//! Receivers that know nothing of Xcast: a UDP socket on each host.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::delivery::{Delivery, Inbox};
use crate::testbed::Testbed;

/// A message as it arrived.
struct Arrival {
    host: String,
    source: String,
    text: String,
}

/// A thread per host that receives.
pub(super) struct Receivers {
    hosts: Vec<String>,
    arrivals: Receiver<Arrival>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Receivers {
    pub(super) fn start(testbed: &Testbed, hosts: &[&str], port: u16) -> Result<Self> {
        let (sender, arrivals) = mpsc::channel();
        let mut receivers = Self {
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            arrivals,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for host in receivers.hosts.clone() {
            let socket = testbed
                .in_namespace(&host, || UdpSocket::bind(("::", port)))?
                .with_context(|| format!("failed to listen on {host}"))?;
            // Wakes up now and then to see whether to stop.
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let (sender, stop) = (sender.clone(), Arc::clone(&receivers.stop));
            let thread = thread::spawn(move || receive(&host, &socket, &sender, &stop));
            receivers.threads.push(thread);
        }
        Ok(receivers)
    }

    /// Forgets what has arrived so far.
    pub(super) fn drain(&self) {
        while self.arrivals.try_recv().is_ok() {}
    }

    /// Waits until every host has got that many messages, but not for ever.
    pub(super) fn collect(&self, messages: u64, patience: Duration) -> Inbox {
        let hosts: Vec<_> = self.hosts.iter().map(String::as_str).collect();
        self.collect_at(&hosts, messages, patience)
    }

    /// Waits until these hosts have got that many messages, but not for ever.
    pub(super) fn collect_at(&self, hosts: &[&str], messages: u64, patience: Duration) -> Inbox {
        let hosts = hosts.iter().map(|&host| host.to_owned());
        let mut inbox: Inbox = hosts.map(|host| (host, Delivery::default())).collect();
        let mut seen = BTreeSet::new();
        let started = Instant::now();
        while inbox.values().any(|delivery| delivery.messages < messages) {
            let left = patience.saturating_sub(started.elapsed());
            match self.arrivals.recv_timeout(left) {
                Ok(arrival) => note(&mut inbox, &mut seen, arrival),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        // A second copy would be right behind.
        while let Ok(arrival) = self.arrivals.recv_timeout(Duration::from_millis(50)) {
            note(&mut inbox, &mut seen, arrival);
        }
        inbox
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn note(inbox: &mut Inbox, seen: &mut BTreeSet<(String, String)>, arrival: Arrival) {
    let Arrival { host, source, text } = arrival;
    let delivery = inbox.entry(host.clone()).or_default();
    if seen.insert((host, text.clone())) {
        delivery.messages += 1;
    } else {
        delivery.repeated += 1;
    }
    delivery.example.get_or_insert((source, text));
}

fn receive(host: &str, socket: &UdpSocket, sender: &Sender<Arrival>, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, source)) => {
                let arrival = Arrival {
                    host: host.to_owned(),
                    // IPv4 comes to this socket of IPv6, too.
                    source: SocketAddr::new(source.ip().to_canonical(), source.port()).to_string(),
                    text: String::from_utf8_lossy(&buffer[..len]).into_owned(),
                };
                if sender.send(arrival).is_err() {
                    return;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => {
                eprintln!("xtask: receiver on {host}: {error}");
                return;
            }
        }
    }
}
