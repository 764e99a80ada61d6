//! The router under test: `xcast-ctl run` in a namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::namespace::{self, Namespace};

/// How long a router may take for anything. Generous: it is there to end tests, not to judge.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a router is started, where it is not the ordinary way.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Program and arguments that start it, such as `prlimit --nofile=64`.
    pub under: &'a [&'a str],
    /// Further arguments of `run`.
    pub arguments: &'a [&'a str],
    /// Where its log goes instead of the file that [`Daemon::log`] reads.
    pub log: Option<Stdio>,
    /// How long it may take to be ready.
    pub patience: Duration,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            under: &[],
            arguments: &[],
            log: None,
            patience: PATIENCE,
        }
    }
}

/// A running router.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    directory: TempDir,
    namespace: String,
}

impl Daemon {
    /// Starts a router with `configuration` and waits until it says that it is ready.
    pub fn start(namespace: &Namespace, configuration: &str) -> Result<Self> {
        Self::launch(namespace, configuration, Launch::default())
    }

    /// The same, started as `launch` says.
    pub fn launch(namespace: &Namespace, configuration: &str, launch: Launch<'_>) -> Result<Self> {
        let directory = TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        fs::write(&config, configuration)?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = match launch.under {
            [] => namespace.command(program()),
            [first, rest @ ..] => {
                let mut command = namespace.command(first);
                command.args(rest).arg(program());
                command
            }
        };
        let mut child = command
            .args(["run", "--config"])
            .arg(&config)
            .args(launch.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(launch.log.unwrap_or_else(|| log.into()))
            .spawn()
            .context("start xcast-ctl run")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut daemon = Self {
            child,
            directory,
            namespace: namespace.name().to_owned(),
        };

        // The thread ends with the router, and reads on so that nothing blocks it.
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        match lines.recv_timeout(launch.patience) {
            Ok(line) if line.starts_with("ready") => Ok(daemon),
            Ok(line) => bail!("the router said {line:?} instead of ready"),
            Err(RecvTimeoutError::Timeout) => bail!("the router is not ready: {}", daemon.log()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = daemon.child.wait()?;
                bail!("the router ended ({status}): {}", daemon.log())
            }
        }
    }

    /// What it wrote to its standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("xcast.toml")
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Whether it ends by itself.
    pub fn ends(&mut self) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while self.runs()? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill(self.pid(), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the router does not end: {}", self.log())
    }

    /// Ends it without a chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was killed on purpose left something on purpose.
        let runs = matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if runs {
            let _ = ctl(&Namespace::of(&self.namespace), &["unload"]);
        }
        if thread::panicking() {
            eprintln!("the router's log:\n{}", self.log());
        }
    }
}

/// Runs `xcast-ctl` with `arguments` in `namespace`, to any end.
pub fn ctl(namespace: &Namespace, arguments: &[&str]) -> Result<Output> {
    namespace::outcome(namespace.command(program()).args(arguments), "")
}

/// The document `xcast-ctl VERB --json` prints in `namespace`.
pub fn report(namespace: &Namespace, arguments: &[&str]) -> Result<Value> {
    let output = ctl(namespace, &[arguments, &["--json"]].concat())?;
    ensure!(
        output.status.success(),
        "xcast-ctl {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("xcast-ctl {arguments:?}"))
}

/// Counters over all ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them from the router in `namespace`.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        let stats = report(namespace, &["stats"])?;
        let totals = stats["totals"].as_object().context("stats has no totals")?;
        let pairs = totals.iter().map(|(name, value)| {
            let value = value.as_u64().with_context(|| format!("counter {name}"))?;
            Ok((name.clone(), value))
        });
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    /// One of them.
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How far each went up since `earlier`, those that did not left out. A router that began to count anew
    /// started from 0.
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.iter().map(|(name, value)| {
            let difference = value.checked_sub(earlier.value(name));
            (name.clone(), difference.unwrap_or(*value))
        });
        grown.filter(|&(_, difference)| difference > 0).collect()
    }
}

/// The program under test: `$XCAST_CTL`, or what cargo builds beside this test.
///
/// # Panics
///
/// Where it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("XCAST_CTL") {
        Some(path) => path.into(),
        None => match build() {
            Ok(path) => path,
            Err(error) => panic!("cannot build xcast-ctl: {error:#}"),
        },
    })
}

/// Builds `xcast-ctl` in this test's own profile and target directory. Cargo does not do so for the
/// tests of another package, and an old build must not be tested for the new one.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test>
    let profile = test.ancestors().nth(2).context("test is not in target/")?;
    let target = profile.parent().context("test is not in target/")?;
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--quiet", "--package", "xcast-ctl", "--target-dir"])
        .arg(target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    namespace::run(&mut command, "")?;
    Ok(profile.join("xcast-ctl"))
}
