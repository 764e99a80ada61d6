//! Network namespaces of the tests, and what is done inside them.
//!
//! Every namespace has a name of its own, `xct-<process>-<number>-<label>`, so that tests can run
//! side by side and `ip netns` shows what is there; it goes away with its handle. What a killed test
//! run left behind is swept up by the next one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use xtask::testbed::{ethtool, netns};

const PREFIX: &str = "xct-";

/// A network namespace; one that was made here is removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    owned: bool,
}

impl Namespace {
    /// Makes a namespace, quiet (no IPv6) and with its loopback interface up.
    pub fn new(label: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let namespace = Self { name, owned: true };
        for interfaces in ["all", "default"] {
            namespace.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "1")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A namespace that somebody else made and removes.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            owned: false,
        }
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace. Sockets stay in the namespace they were made
    /// in, whoever uses them.
    ///
    /// # Panics
    ///
    /// Where `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::enter(&self.name, work)?
    }

    /// The same as a user without any privilege.
    ///
    /// # Panics
    ///
    /// Where `work` does.
    pub fn enter_as_nobody<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.enter(|| {
            become_nobody().context("give up all privileges")?;
            work()
        })
    }

    /// A command that runs inside the namespace. Its process is the program itself.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Runs `words` as a command inside the namespace and returns what it printed.
    pub fn run(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let program = words.next().context("no command given")?;
        run(self.command(program).args(words), "")
    }

    /// Runs `ip` with the words of `arguments`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let words = arguments.split_whitespace();
        run(Command::new("ip").args(["-n", &self.name]).args(words), "")
    }

    /// Runs the lines of `commands` in one `ip -batch`.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        run(&mut command, commands).map(|_| ())
    }

    /// Sets `net/<key>`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("write {value} to {path}")))
    }

    /// Lets `interface` hand its packets to the stack by GRO. On veth this is what makes its peer
    /// able to transmit XDP frames to it.
    pub fn set_gro(&self, interface: &str, on: bool) -> Result<()> {
        self.enter(|| ethtool::set_gro(interface, on))
    }

    /// Lets `interface` leave transport checksums of what it sends to somebody else. On veth
    /// nobody else computes them, so senders on veth want this off.
    pub fn set_tx_checksum(&self, interface: &str, on: bool) -> Result<()> {
        self.enter(|| ethtool::set_tx_checksum(interface, on))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// Whether namespaces can be made here. Where not, says so loudly; that a test then fails unless
/// `XCAST_ALLOW_SKIP=1` is in the environment is the point.
///
/// # Panics
///
/// Where they cannot and skipping was not allowed.
pub fn available() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let message = "this test makes network namespaces, which needs root";
    let allowed = std::env::var_os("XCAST_ALLOW_SKIP").is_some_and(|value| value == "1");
    assert!(
        allowed,
        "{message}: run it as root, or set XCAST_ALLOW_SKIP=1 to go without"
    );
    skipped(message);
    false
}

/// Says that something is not tested here, and why. `cargo xtask test` lists it at its end.
pub fn skipped(why: &str) {
    // Past the test harness's capture, so that a skip is never silent.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// Makes this thread one of user nobody, without groups, and with that without capabilities. The C
/// library's calls would do so to all threads of the process: the kernel's are per thread.
fn become_nobody() -> Result<()> {
    const NOBODY: libc::c_long = 65534;
    // SAFETY: no list of groups is read where its length is 0.
    let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) };
    Errno::result(groups)?;
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: plain numbers.
        let answer = unsafe { libc::syscall(call, NOBODY, NOBODY, NOBODY) };
        Errno::result(answer)?;
    }
    let raw = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    ensure!(raw.is_err(), "raw sockets can still be opened");
    Ok(())
}

/// Runs a command to its end, with `input`; it must succeed.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let output = outcome(command, input)?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end(),
        String::from_utf8_lossy(&output.stdout).trim_end(),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, with `input`, whatever the end is.
pub fn outcome(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => bail!(error),
            _ => {}
        }
    }
    child
        .wait_with_output()
        .with_context(|| format!("wait for {command:?}"))
}

/// Removes a namespace and ends what still runs in it.
fn remove(name: &str) {
    let ip = |arguments: &[&str]| Command::new("ip").arg("netns").args(arguments).output();
    if let Ok(output) = ip(&["pids", name]) {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    remove_pins(name);
    let _ = ip(&["delete", name]);
}

/// Removes what routers pinned in a namespace, so that it outlived them.
fn remove_pins(name: &str) {
    let Ok(namespace) = fs::metadata(Path::new("/run/netns").join(name)) else {
        return;
    };
    let pinned = format!("/sys/fs/bpf/xcast/{}", namespace.ino());
    if Path::new(&pinned).exists() {
        let _ = fs::remove_dir_all(pinned);
    }
}

/// Removes namespaces whose test process is gone.
fn sweep() {
    for name in netns::names() {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}
