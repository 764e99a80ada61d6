//! This router.

use std::{
    fs,
    rc::Rc,
    time::{Duration, Instant},
};

use ::tests::{
    daemon::{Counters, Daemon},
    namespace::Namespace,
    oracle,
};
use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Case, Copy, Load, Subject};
use crate::{
    generator::Generator,
    sinks::{Kind, Sinks},
    site::{self, Checks, LAN, Site},
    table::Routes,
};

/// How the router makes its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// By one broadcast, as soon as it had time to prepare for the set of ports.
    Prepared,
    /// By a round for each group of ports, since its controller was stopped before it saw any packet.
    Unprepared,
    /// As prepared, with ports that check no source and have no limits.
    Open,
}

/// This router: the real daemon, following the kernel's routes.
pub struct Router {
    path: Path,
    site: Site,
    routes: Rc<Routes>,
    daemon: Daemon,
    ready_after: Duration,
    /// Extra rounds made until it was used to its cases.
    settled: u64,
}

impl Router {
    /// Starts the daemon.
    ///
    /// # Errors
    ///
    /// See [`Site::new`]; or the daemon does not start.
    pub fn new(generator: &mut Generator, path: Path, routes: Rc<Routes>) -> Result<Self> {
        let family = routes.family();
        let (label, subsets, one_group) = match path {
            Path::Prepared => ("xcast", 1024, true),
            Path::Unprepared => ("miss", 1, false),
            Path::Open => ("open", 1024, true),
        };
        let site = Site::new(generator, family, label, Kind::Xdp, Some(&routes))?;
        let checks = match path {
            Path::Prepared | Path::Unprepared => Checks::Unreached,
            Path::Open => Checks::None,
        };
        let configuration = site::configuration(family, subsets, one_group, checks);
        let start = Instant::now();
        let daemon = Daemon::start(&site.router, &configuration)?;
        let ready_after = start.elapsed();
        if path == Path::Unprepared {
            kill(daemon.pid(), Signal::SIGSTOP)?;
        }
        Ok(Self {
            path,
            site,
            routes,
            daemon,
            ready_after,
            settled: 0,
        })
    }

    /// How long the daemon took from its start until its maps were in step with the kernel's routes.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The daemon's process.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.site.router
    }

    /// Memory that the daemon's pages take, those it shares with the programs included.
    ///
    /// # Errors
    ///
    /// The daemon is gone.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(1024 * kib.context("no VmRSS in /proc/PID/status")?)
    }

    fn recirculated(&self) -> Result<u64> {
        Ok(Counters::read(&self.site.router)?.value("recirculated"))
    }
}

impl Subject for Router {
    fn name(&self) -> &'static str {
        match self.path {
            Path::Prepared => "xcast",
            Path::Unprepared => "xcast-miss",
            Path::Open => "xcast, open",
        }
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let lists = load.lists(&self.routes);
        let family = self.routes.family();
        let frames = load.xcast_frames(family, &lists);
        let copies = lists.iter().zip(&frames).map(|(list, frame)| {
            let expected = oracle::expect(&site::view(family, list), LAN + 1, frame);
            ensure!(
                expected.branches.len() == load.copies && expected.stack.is_empty(),
                "a packet leads to {} copies instead of {}",
                expected.branches.len(),
                load.copies
            );
            let copy = |branch: oracle::Branch| Copy {
                port: branch.port,
                frame: branch.frame,
            };
            Ok(expected.branches.into_iter().map(copy).collect())
        });
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: self.routes.len(),
            device: self.site.device,
            copies: copies.collect::<Result<_>>()?,
            frames,
            frames_per_packet: 1,
        })
    }

    fn detours(&mut self) -> Result<u64> {
        if self.path != Path::Unprepared {
            self.settled = self.recirculated()?;
        }
        Ok(self.settled)
    }

    fn objection(&mut self, packets: u64) -> Result<Option<String>> {
        let expected = match self.path {
            Path::Prepared | Path::Open => self.settled,
            Path::Unprepared => {
                // Nothing is sent any more.
                kill(self.daemon.pid(), Signal::SIGCONT)?;
                // Two groups of ports.
                packets
            }
        };
        let made = self.recirculated()?;
        let objection = format!("{made} extra rounds were made instead of {expected}");
        Ok((made != expected).then_some(objection))
    }
}
