//! Messages from one host to others, again and again, with what each way of sending costs on each link.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{delivery::Inbox, family::Family, receivers::Receivers};
use crate::{
    process,
    testbed::{RouterConfig, Testbed, Traffic},
};

/// Port that the receivers listen on.
const PORT: u16 = 5058;
/// How long messages may take to arrive, and links to fall silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long counters must stand still before they count as silent.
const SILENCE: Duration = Duration::from_millis(100);
/// How often to count again when something else crossed the links meanwhile.
const ATTEMPTS: u32 = 5;

/// A source, its first Xcast router, and who listens.
pub struct Exchange<'a> {
    testbed: &'a Testbed,
    xcast_ctl: &'a Path,
    config: &'a RouterConfig,
    family: Family,
    source: &'a str,
    router: &'a str,
    receivers: Receivers,
    pace: Pace,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time from one to the next.
    pub interval: Duration,
    /// Octets that a message has besides its text.
    pub padding: usize,
    /// Something else crosses the links all the time, such as keepalives: nobody waits until they are silent, and what is
    /// counted is at least what messages needed.
    pub is_noisy: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // It is about packets, not about speed.
            interval: Duration::from_millis(1),
            padding: 0,
            is_noisy: false,
        }
    }
}

/// What became of messages.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What crossed each link, in the order of the plan's links.
    pub traffic: Vec<Traffic>,
    /// What arrived.
    pub inbox: Inbox,
}

impl<'a> Exchange<'a> {
    /// Has `hosts` listen to what `source` sends, by Xcast to `router`, wherever that is.
    ///
    /// # Errors
    ///
    /// There are no such nodes, or a socket cannot be opened.
    pub fn start(
        testbed: &'a Testbed,
        xcast_ctl: &'a Path,
        config: &'a RouterConfig,
        family: Family,
        [source, router]: [&'a str; 2],
        hosts: &[&str],
    ) -> Result<Self> {
        Ok(Self {
            testbed,
            xcast_ctl,
            config,
            family,
            source,
            router,
            receivers: Receivers::start(testbed, hosts, PORT)?,
            pace: Pace::default(),
        })
    }

    /// Sends in another way from here on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Sends one message each way, which need not arrive: everybody gets to know everybody's link layer address.
    ///
    /// # Errors
    ///
    /// Something cannot be sent.
    pub fn warm_up(&self, hosts: &[&str]) -> Result<()> {
        let addresses = self.addresses(hosts)?;
        self.send_unicast(&addresses, 1)?;
        self.receivers.collect(1, PATIENCE);
        self.send_xcast(&addresses, 1)?;
        self.receivers.collect(1, PATIENCE);
        Ok(())
    }

    /// Sends messages to `hosts`, each as one Xcast packet.
    ///
    /// # Errors
    ///
    /// Something cannot be sent.
    pub fn by_xcast(&self, hosts: &[&str], messages: u64) -> Result<Outcome> {
        let addresses = self.addresses(hosts)?;
        self.measure(hosts, messages, || self.send_xcast(&addresses, messages))
    }

    /// Sends messages to `hosts`, each as a datagram for each.
    ///
    /// # Errors
    ///
    /// Something cannot be sent, or did not arrive: then there is nothing to compare with.
    pub fn by_unicast(&self, hosts: &[&str], messages: u64) -> Result<Outcome> {
        let outcome = self.by_lossy_unicast(hosts, messages)?;
        for (host, delivery) in &outcome.inbox {
            if delivery.messages != messages {
                bail!(
                    "{host} received only {} of {messages} unicast messages, so there is nothing to compare with",
                    delivery.messages
                );
            }
        }
        Ok(outcome)
    }

    /// The same, where it is no error that something does not arrive.
    ///
    /// # Errors
    ///
    /// Something cannot be sent.
    pub fn by_lossy_unicast(&self, hosts: &[&str], messages: u64) -> Result<Outcome> {
        let addresses = self.addresses(hosts)?;
        self.measure(hosts, messages, || self.send_unicast(&addresses, messages))
    }

    fn addresses(&self, hosts: &[&str]) -> Result<Vec<IpAddr>> {
        let nodes = hosts.iter().map(|host| self.testbed.node(host));
        nodes.map(|node| self.family.of_node(node?)).collect()
    }

    /// Has messages sent; returns what crossed the links meanwhile, and what arrived at `hosts`.
    fn measure(
        &self,
        hosts: &[&str],
        messages: u64,
        send: impl Fn() -> Result<()>,
    ) -> Result<Outcome> {
        let mut attempt = 1;
        loop {
            let before = self.count()?;
            self.receivers.drain();
            send()?;
            let inbox = self.receivers.collect_at(hosts, messages, PATIENCE);
            let after = self.count()?;
            let traffic: Vec<_> = after
                .iter()
                .zip(before)
                .map(|(&after, before)| after - before)
                .collect();
            let arrived = inbox.values().all(|delivery| delivery.messages == messages);
            let even = traffic
                .iter()
                .all(|link| link.packets.is_multiple_of(messages));
            if even || !arrived || self.pace.is_noisy || attempt == ATTEMPTS {
                return Ok(Outcome { traffic, inbox });
            }
            eprintln!("something else crossed the links meanwhile; counting again");
            attempt += 1;
        }
    }

    fn count(&self) -> Result<Vec<Traffic>> {
        match self.pace.is_noisy {
            true => self.testbed.traffic(),
            false => silence(self.testbed),
        }
    }

    fn send_xcast(&self, addresses: &[IpAddr], messages: u64) -> Result<()> {
        let source = self.testbed.node(self.source)?;
        let routers = source.routes.iter().flat_map(|route| &route.next_hops);
        let interface = routers
            .map(|next_hop| &next_hop.interface)
            .next()
            .with_context(|| format!("{} has no router", self.source))?;
        let interface = source
            .interfaces
            .iter()
            .find(|other| other.name == *interface);
        let first = interface.context("no interface to the first router")?;
        let first = self.testbed.interface(&first.peer, self.source)?;
        let code_points = &self.config.code_points;
        let mut command = self.testbed.command(self.source, self.xcast_ctl)?;
        command
            .args([
                "send",
                "--via",
                &self.family.of_interface(first)?.to_string(),
            ])
            .args(["--protocol", &code_points.protocol.to_string()])
            .args(["--group", &code_points.group.to_string()])
            .args(["--group6", &code_points.group6.to_string()])
            .args(["--routing-type", &code_points.routing_type.to_string()])
            .args(["--ports-option", &code_points.ports_option.to_string()])
            .args(["--count", &messages.to_string()])
            .args(["--interval", &self.pace.interval.as_millis().to_string()])
            .args(["--payload", &self.message("{n}")]);
        // A router farther away is reached by its address (RFC 5058 section 11.5).
        if self.testbed.interface(self.router, self.source).is_err() {
            let router = self.family.of_node(self.testbed.node(self.router)?)?;
            command.args(["--to", &router.to_string()]);
        }
        let to = addresses.iter();
        command.args(to.map(|address| SocketAddr::new(*address, PORT).to_string()));
        process::output(&mut command).context("failed to send by Xcast")?;
        Ok(())
    }

    fn send_unicast(&self, addresses: &[IpAddr], messages: u64) -> Result<()> {
        let any = match self.family {
            Family::Ipv4 => "0.0.0.0:0",
            Family::Ipv6 => "[::]:0",
        };
        let socket = self
            .testbed
            .in_namespace(self.source, || UdpSocket::bind(any))?
            .context("failed to open a socket to send from")?;
        for n in 1..=messages {
            for &address in addresses {
                let to = SocketAddr::new(address, PORT);
                socket
                    .send_to(self.message(&n.to_string()).as_bytes(), to)
                    .with_context(|| format!("failed to send to {to}"))?;
            }
            thread::sleep(self.pace.interval);
        }
        Ok(())
    }

    fn message(&self, number: &str) -> String {
        format!("message {number}{}", ".".repeat(self.pace.padding))
    }
}

/// Waits until nothing crosses the links any more, and returns what has.
fn silence(testbed: &Testbed) -> Result<Vec<Traffic>> {
    let started = Instant::now();
    let mut last = testbed.traffic()?;
    loop {
        thread::sleep(SILENCE);
        let now = testbed.traffic()?;
        if now == last || started.elapsed() > PATIENCE {
            return Ok(now);
        }
        last = now;
    }
}
