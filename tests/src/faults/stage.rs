//! Where a fault happens: a router under two streams.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};

use crate::daemon::{self, Daemon, Launch, PATIENCE};
use crate::trio::{Trio, host_mac, until};

/// A router and its hosts, while messages are under way.
pub struct Stage<'a> {
    /// The router and its hosts.
    pub trio: &'a mut Trio,
    /// Since when traffic can go on as before.
    pub(super) mended: Instant,
    /// What routers that have ended had logged.
    pub(super) log: String,
    /// How long something took.
    pub(super) took: Vec<(&'static str, Duration)>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(trio: &'a mut Trio) -> Self {
        Self {
            trio,
            mended: Instant::now(),
            log: String::new(),
            took: Vec::new(),
        }
    }

    /// Does something, and notes how long that took, as `what` says.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn timed(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        work(self)?;
        self.took.push((what, begun.elapsed()));
        Ok(())
    }

    /// What was wrong ends now: until here, everybody loses packets. Without this, it is the moment at which
    /// the fault happened.
    pub fn mended(&mut self) {
        self.mended = Instant::now();
    }

    /// The router that runs.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.trio.daemon.as_mut().context("no router")
    }

    fn take(&mut self) -> Result<Daemon> {
        let daemon = self.trio.daemon.take().context("no router")?;
        self.log += &daemon.log();
        Ok(daemon)
    }

    /// Ends the router without a chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.take()?.kill()
    }

    /// Ends it by SIGTERM.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.take()?.stop()?;
        ensure!(status.success(), "the router ended with {status}");
        Ok(())
    }

    /// Starts one and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.trio.start()
    }

    /// Starts one that is killed after a while, ready or not.
    pub fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        let directory = tempfile::TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        std::fs::write(&config, &self.trio.configuration)?;
        let mut command = self.trio.r.namespace.command(daemon::program());
        command.args(["run", "--config"]).arg(&config);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = quiet.stderr(Stdio::null()).spawn()?;
        thread::sleep(after);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts one that takes over from the one that runs.
    pub fn replace(&mut self) -> Result<()> {
        let mut old = self.take()?;
        let launch = Launch {
            arguments: &["--replace"],
            patience: self.trio.patience,
            ..Launch::default()
        };
        let namespace = &self.trio.r.namespace;
        let new = Daemon::launch(namespace, &self.trio.configuration, launch)?;
        self.trio.daemon = Some(new);
        ensure!(old.ends()?, "the router from before runs still");
        Ok(())
    }

    /// Has it read another configuration.
    pub fn reload(&mut self, configuration: &str) -> Result<()> {
        let daemon = self.daemon()?;
        std::fs::write(daemon.config(), configuration)?;
        Ok(kill(daemon.pid(), Signal::SIGHUP)?)
    }

    /// Runs `ip` in the router's namespace, with what stands for the addresses in the family.
    pub fn router_ip(&self, command: &str) -> Result<()> {
        self.trio.r.ip(command).map(drop)
    }

    /// Has the kernel's entry of a host's address say its true link layer address, in a state.
    pub fn note_neighbour(&self, address: Ipv4Addr, state: &str) -> Result<()> {
        let [.., host, _] = address.octets();
        let mac = crate::layout::mac_text(host_mac(host));
        self.router_ip(&format!(
            "neigh replace {address} dev p{host} lladdr {mac} nud {state}"
        ))
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
        ensure!(until(PATIENCE, condition)?, "in vain for {what}");
        Ok(())
    }
}
