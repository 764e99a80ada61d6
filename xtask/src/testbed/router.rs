//! Running the router's daemon in a testbed.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use super::plan::Node;

/// How long a daemon has to get ready, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The configuration that routers are started with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouterConfig {
    /// The code points in use.
    pub code_points: CodePoints,
    /// The `[router]` table. What it does not say is the router's default.
    pub router: toml::Table,
    /// The `[udp]` table; without it the router takes no Xcast inside UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<toml::Table>,
    /// The `[[tunnel]]` tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tunnel: Vec<toml::Table>,
    /// What every `[[port]]` table has besides its interface.
    #[serde(skip)]
    pub port: toml::Table,
}

/// The code points in use. A testbed is an experiment, so experimental values (RFC 4727) are right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CodePoints {
    /// IPv4 protocol number of Xcast.
    pub protocol: u8,
    /// The All-Xcast-Routers group.
    pub group: Ipv4Addr,
    /// The same for IPv6.
    pub group6: Ipv6Addr,
    /// Routing type of Xcast6.
    pub routing_type: u8,
    /// Type of the option of Xcast6 that lists ports.
    pub ports_option: u8,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            code_points: CodePoints {
                protocol: 253,
                group: Ipv4Addr::new(224, 0, 0, 254),
                group6: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114),
                routing_type: 253,
                ports_option: 0x5e,
            },
            // A testbed's first packet is served as every other: nothing has to be discovered before.
            router: toml::Table::from_iter([("gateways".to_owned(), "all".into())]),
            udp: None,
            tunnel: Vec::new(),
            port: toml::Table::new(),
        }
    }
}

#[derive(Serialize)]
struct ConfigFile<'a> {
    #[serde(flatten)]
    config: &'a RouterConfig,
    port: Vec<Port<'a>>,
}

#[derive(Serialize)]
struct Port<'a> {
    interface: &'a str,
    #[serde(flatten)]
    others: &'a toml::Table,
}

impl RouterConfig {
    /// The configuration file of one router: every interface is a port.
    ///
    /// # Errors
    ///
    /// The `[router]` table cannot be written as TOML.
    pub fn to_toml(&self, node: &Node) -> Result<String> {
        let interfaces = node.interfaces.iter();
        let file = ConfigFile {
            config: self,
            port: interfaces
                .map(|interface| Port {
                    interface: &interface.name,
                    others: &self.port,
                })
                .collect(),
        };
        toml::to_string(&file).context("failed to write the router's configuration")
    }
}

/// A daemon that was started, and where it writes.
#[derive(Debug)]
pub struct Router {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Router {
    /// Starts the daemon in the node's namespace. It goes on running when this process ends.
    pub(super) fn start(
        node: &Node,
        xcast_ctl: &Path,
        config: &RouterConfig,
        directory: &Path,
    ) -> Result<Self> {
        let file = |extension: &str| directory.join(format!("{}.{extension}", node.name));
        let (config_path, stdout, stderr) = (file("toml"), file("out"), file("err"));
        fs::write(&config_path, config.to_toml(node)?)
            .with_context(|| format!("failed to write {}", config_path.display()))?;
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("failed to create {}", path.display()))
        };
        let child = Command::new("ip")
            .args(["netns", "exec", &node.namespace])
            .arg(xcast_ctl)
            .args(["run", "--config"])
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            // Ctrl-C at our terminal is for us alone.
            .process_group(0)
            .spawn()
            .context("failed to start `ip`; install it with: cargo xtask setup")?;
        Ok(Self {
            name: node.name.clone(),
            child,
            stdout,
            stderr,
        })
    }

    /// Waits for the line that says that the daemon forwards.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let ready = |line: &str| line.starts_with("ready");
            if self.stdout().lines().any(ready) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "router {} ended before it was ready ({status}): {}",
                    self.name,
                    self.last_words()
                );
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "router {} is not ready after {} s: {}",
                    self.name,
                    PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the daemon has written to its standard output so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What the daemon has written to its standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The daemon's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the daemon a signal and waits for its end.
    ///
    /// # Errors
    ///
    /// It has not ended after half a minute; it is killed then.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.child.id()).context("process id out of range")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("failed to signal router {}", self.name))?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!(
            "router {} ignored {signal} for {} s",
            self.name,
            PATIENCE.as_secs()
        )
    }

    fn last_words(&self) -> String {
        let stderr = self.stderr();
        let lines: Vec<_> = stderr.lines().rev().take(3).collect();
        match lines.is_empty() {
            true => "it wrote nothing".to_owned(),
            false => lines.into_iter().rev().collect::<Vec<_>>().join("; "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan, *};
    use crate::testbed::Topology;

    #[test]
    fn the_configuration_has_code_points_and_every_port() {
        let plan = plan::Plan::new(
            &Topology::fig3(),
            "x",
            plan::BASE,
            plan::Ipv6Plan::default(),
            plan::Routing::Static,
        )
        .unwrap();
        let mut config = RouterConfig::default();
        config.router.insert("prune".to_owned(), "bitmap".into());
        config.udp = Some(toml::Table::from_iter([("port".to_owned(), 4242.into())]));
        let text = config.to_toml(plan.node("R1").unwrap()).unwrap();
        let expected = "[code_points]\nprotocol = 253\ngroup = \"224.0.0.254\"\ngroup6 = \"ff02::114\"\n\
                        routing_type = 253\nports_option = 94\n\n[router]\ngateways = \"all\"\n\
                        prune = \"bitmap\"\n\n[udp]\nport = 4242\n\n\
                        [[port]]\ninterface = \"to-A\"\n\n[[port]]\ninterface = \"to-R2\"\n";
        assert_eq!(text, expected);
    }
}
