//! `cargo xtask setup`: installs what is missing, and says so first.
//!
//! What is there is left alone: a nightly toolchain that somebody works with is never updated. The
//! BPF toolchain is the only part with alternatives, tried in this order:
//!
//! 1. rustup's nightly with rust-src, if the distribution has the LLVM that a fitting bpf-linker
//!    must be built with;
//! 2. the distribution's newest compiler and its source, linked into rustup as `bpf`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use crate::{process, toolchain};

/// The bpf-linker that set-up installs, and the versions of LLVM it can be built with.
const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The cargo-deny that set-up installs.
const CARGO_DENY: &str = "0.20.2";
/// How long a download by rustup may take before set-up does without.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(180);

/// Arguments of `setup`.
#[derive(Debug, Args)]
pub struct Setup {
    /// List what is missing instead of installing it
    #[arg(long)]
    no_setup: bool,
}

/// What the machine is to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Compiling everything.
    Build,
    /// Compiling, and raising testbeds.
    Demo,
    /// The same with a routing daemon.
    Partial,
    /// All that, and checking.
    Test,
}

/// Runs `cargo xtask setup`.
///
/// # Errors
///
/// Something is missing and may or can not be installed.
pub fn run(arguments: &Setup) -> Result<ExitCode> {
    ensure(Purpose::Test, arguments.no_setup)?;
    eprintln!("everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that everything needed is there, by installing it unless told not to.
///
/// # Errors
///
/// Something is missing and may or can not be installed.
pub fn ensure(purpose: Purpose, no_setup: bool) -> Result<()> {
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|need| need.purposes.contains(&purpose) && !(need.present)())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if no_setup {
        let list: Vec<_> = missing
            .iter()
            .map(|need| format!("{} ({})", need.name, need.why))
            .collect();
        bail!("missing: {}; run: cargo xtask setup", list.join(", "));
    }
    eprintln!("To be installed:");
    for need in &missing {
        eprintln!("  {:14} {}; {}", need.name, need.why, need.how);
    }
    let mut apt = Apt::default();
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    apt.install(&packages)?;
    for need in missing {
        if let Some(install) = need.install {
            install(&mut apt).with_context(|| format!("failed to install {}", need.name))?;
        }
        if !(need.present)() {
            bail!(
                "{} was installed but does not work here; {}",
                need.name,
                need.how
            );
        }
    }
    Ok(())
}

/// Something that is not in a fresh machine.
struct Need {
    name: &'static str,
    why: &'static str,
    how: &'static str,
    purposes: &'static [Purpose],
    present: fn() -> bool,
    packages: &'static [&'static str],
    install: Option<fn(&mut Apt) -> Result<()>>,
}

const NEEDS: &[Need] = &[
    Need {
        name: "iproute2",
        why: "raises testbeds",
        how: "from the distribution",
        purposes: &[Purpose::Demo, Purpose::Partial, Purpose::Test],
        present: || find("ip").is_some(),
        packages: &["iproute2"],
        install: None,
    },
    Need {
        name: "bird2",
        why: "routing daemon that tests follow, and that fills Xcast routing tables",
        how: "from the distribution",
        purposes: &[Purpose::Partial, Purpose::Test],
        present: || find("bird").is_some(),
        packages: &["bird2"],
        install: None,
    },
    Need {
        name: "nftables",
        why: "packet filters that tests put beside the router",
        how: "from the distribution",
        purposes: &[Purpose::Test],
        present: || find("nft").is_some(),
        packages: &["nftables"],
        install: None,
    },
    Need {
        name: "libtorrent",
        why: "a node of the BitTorrent DHT that overlays are tested with",
        how: "from the distribution (python3-libtorrent)",
        purposes: &[Purpose::Test],
        present: || succeeds("/usr/bin/python3", &["-c", "import libtorrent"]),
        packages: &["python3-libtorrent"],
        install: None,
    },
    Need {
        name: "Transmission",
        why: "another such node",
        how: "from the distribution (transmission-daemon)",
        purposes: &[Purpose::Test],
        present: || find("transmission-daemon").is_some(),
        packages: &["transmission-daemon"],
        install: None,
    },
    Need {
        name: "OpenLDAP",
        why: "directories that are found by place, and bound to",
        how: "from the distribution (slapd, ldap-utils); not started",
        purposes: &[Purpose::Test],
        present: || find("slapd").is_some() && find("ldapsearch").is_some(),
        packages: &["slapd", "ldap-utils"],
        install: None,
    },
    Need {
        name: "Avahi",
        why: "tells a link of services, which are then found from elsewhere",
        how: "from the distribution (avahi-daemon, avahi-utils, dbus); not started",
        purposes: &[Purpose::Test],
        present: || {
            ["avahi-daemon", "avahi-browse", "dbus-daemon"]
                .iter()
                .all(|program| find(program).is_some())
        },
        packages: &["avahi-daemon", "avahi-utils", "dbus"],
        install: None,
    },
    Need {
        name: "tshark",
        why: "judges messages of SLP",
        how: "from the distribution",
        purposes: &[Purpose::Test],
        present: || find("tshark").is_some(),
        packages: &["tshark"],
        install: None,
    },
    Need {
        name: "GStreamer",
        why: "sends media to many, unmodified, by Xcast",
        how: "from the distribution (gstreamer1.0-tools, gstreamer1.0-plugins-good), 10 MB",
        purposes: &[Purpose::Test],
        present: || succeeds("gst-inspect-1.0", &["multiudpsink"]),
        packages: &["gstreamer1.0-tools", "gstreamer1.0-plugins-good"],
        install: None,
    },
    Need {
        name: "Cyclone DDS",
        why: "publishes to many readers, unmodified, by Xcast",
        how: "from the distribution (cyclonedds-tools)",
        purposes: &[Purpose::Test],
        present: || find("ddsperf").is_some(),
        packages: &["cyclonedds-tools"],
        install: None,
    },
    Need {
        name: "n2n",
        why: "relays broadcasts of a virtual network, unmodified, by Xcast",
        how: "from the distribution (n2n)",
        purposes: &[Purpose::Test],
        present: || find("supernode").is_some() && find("ifconfig").is_some(),
        packages: &["n2n", "net-tools"],
        install: None,
    },
    Need {
        name: "corosync",
        why: "a cluster with kronosnet, unmodified, by Xcast",
        how: "from the distribution (corosync)",
        purposes: &[Purpose::Test],
        present: || find("corosync").is_some(),
        packages: &["corosync"],
        install: None,
    },
    Need {
        name: "gron",
        why: "a Go program, which `xcast-ctl exec` has to recognise",
        how: "from the distribution (gron), 2 MB",
        purposes: &[Purpose::Test],
        present: || find("gron").is_some(),
        packages: &["gron"],
        install: None,
    },
    Need {
        name: "setcap",
        why: "gives a file capabilities",
        how: "from the distribution (libcap2-bin)",
        purposes: &[Purpose::Test],
        present: || find("setcap").is_some(),
        packages: &["libcap2-bin"],
        install: None,
    },
    Need {
        name: "rustfmt",
        why: "checks the format",
        how: "by rustup",
        purposes: &[Purpose::Test],
        present: || succeeds("cargo", &["fmt", "--version"]),
        packages: &[],
        install: Some(|_| {
            process::run(Command::new("rustup").args(["component", "add", "rustfmt"]))
        }),
    },
    Need {
        name: "clippy",
        why: "checks the code",
        how: "by rustup",
        purposes: &[Purpose::Test],
        present: || succeeds("cargo", &["clippy", "--version"]),
        packages: &[],
        install: Some(|_| {
            process::run(Command::new("rustup").args(["component", "add", "clippy"]))
        }),
    },
    Need {
        name: "BPF toolchain",
        why: "compiles the XDP programs",
        how: "a Rust compiler with the source of core by rustup (nightly) or from the distribution \
              (rustc-web), and bpf-linker by cargo, some 2 minutes",
        purposes: &[
            Purpose::Build,
            Purpose::Demo,
            Purpose::Partial,
            Purpose::Test,
        ],
        present: || toolchain::select().is_some() && toolchain::linker_path().is_some(),
        packages: &[],
        install: Some(install_bpf_toolchain),
    },
    Need {
        name: "BPF clippy",
        why: "checks the code of the XDP programs",
        how: "by rustup or from the distribution (rust-web-clippy)",
        purposes: &[Purpose::Test],
        present: || toolchain::select().is_some_and(|name| bpf_clippy(&name)),
        packages: &[],
        install: Some(install_bpf_clippy),
    },
    Need {
        name: "cargo-deny",
        why: "checks licences and sources of dependencies",
        how: "by cargo, some 4 minutes",
        purposes: &[Purpose::Test],
        present: || succeeds("cargo", &["deny", "--version"]),
        packages: &[],
        install: Some(|_| cargo_install(&["cargo-deny", "--version", CARGO_DENY], &[])),
    },
];

fn install_bpf_toolchain(apt: &mut Apt) -> Result<()> {
    if find("rustup").is_none() {
        bail!("rustup is missing; install it from https://rustup.rs");
    }
    if obtain_nightly(apt)? && install_linker(apt, toolchain::NIGHTLY)? {
        return Ok(());
    }
    eprintln!("Taking the distribution's compiler:");
    apt.install(&["rustc-web", "rust-web-src"])?;
    if !toolchain::has_rust_src(toolchain::LINKED) {
        process::run(Command::new("rustup").args([
            "toolchain",
            "link",
            toolchain::LINKED,
            "/usr",
        ]))?;
    }
    if !install_linker(apt, toolchain::LINKED)? {
        bail!(
            "the distribution's rustc-web and LLVM do not fit bpf-linker {BPF_LINKER}, which takes LLVM {} to {}",
            BPF_LINKER_LLVM.start(),
            BPF_LINKER_LLVM.end()
        );
    }
    Ok(())
}

/// Downloads a nightly where there is none, or only the source of `core` for the one there is.
fn obtain_nightly(apt: &mut Apt) -> Result<bool> {
    if toolchain::has_rust_src(toolchain::NIGHTLY) {
        return Ok(true);
    }
    let arguments: &[&str] = match toolchain::llvm(toolchain::NIGHTLY) {
        Some(_) => &[
            "component",
            "add",
            "rust-src",
            "--toolchain",
            toolchain::NIGHTLY,
        ],
        // Today's nightly has at least the newest LLVM that bpf-linker takes: without that one in
        // the distribution, the download would be in vain.
        None if !apt.has(&format!("llvm-{}-dev", BPF_LINKER_LLVM.end()))? => return Ok(false),
        None => &[
            "toolchain",
            "install",
            toolchain::NIGHTLY,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ],
    };
    eprintln!("Trying: rustup {}", arguments.join(" "));
    let fetched = bounded(Command::new("rustup").args(arguments), RUSTUP_PATIENCE);
    if !fetched {
        eprintln!("rustup cannot download it here.");
    }
    Ok(fetched && toolchain::has_rust_src(toolchain::NIGHTLY))
}

/// Makes sure that bpf-linker reads what the toolchain writes; false if no such linker can be had.
fn install_linker(apt: &mut Apt, name: &str) -> Result<bool> {
    let Some(llvm) = toolchain::llvm(name) else {
        return Ok(false);
    };
    if toolchain::linker_path().is_some_and(|linker| toolchain::linker_fits(&linker, Some(llvm))) {
        return Ok(true);
    }
    let package = format!("llvm-{llvm}-dev");
    if !BPF_LINKER_LLVM.contains(&llvm) || !apt.has(&package)? {
        eprintln!(
            "Toolchain `{name}` has LLVM {llvm}, which is not available to build a bpf-linker with."
        );
        return Ok(false);
    }
    apt.install(&[&package, "g++"])?;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let feature = format!("llvm-{llvm}");
    // Either variable alone leaves bpf-linker to find another llvm-config first.
    let variable = format!("LLVM_SYS_{llvm}1_PREFIX");
    cargo_install(
        &[
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--no-default-features",
            "--features",
            &feature,
            "--force",
        ],
        &[("LLVM_PREFIX", &prefix), (&variable, &prefix)],
    )?;
    Ok(toolchain::linker_path().is_some_and(|linker| toolchain::linker_fits(&linker, Some(llvm))))
}

fn install_bpf_clippy(apt: &mut Apt) -> Result<()> {
    match toolchain::select().as_deref() {
        Some(toolchain::LINKED) => apt.install(&["rust-web-clippy"]),
        Some(name) => process::run(Command::new("rustup").args([
            "component",
            "add",
            "clippy",
            "--toolchain",
            name,
        ])),
        None => bail!("there is no BPF toolchain to add it to"),
    }
}

fn bpf_clippy(name: &str) -> bool {
    succeeds("rustup", &["run", name, "clippy-driver", "--version"])
}

fn cargo_install(arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["install", "--locked"])
        .args(arguments)
        .envs(variables.iter().copied());
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value} "))
        .collect();
    eprintln!("Running: {}{}", variables.concat(), process::name(&command));
    process::run(&mut command)
}

/// The distribution's packages.
#[derive(Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs packages, those already there excepted.
    fn install(&mut self, packages: &[&str]) -> Result<()> {
        let missing: Vec<_> = packages
            .iter()
            .copied()
            .filter(|package| !installed(package))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.update(&missing)?;
        let mut install = as_root(&missing)?;
        process::run(
            install
                .args(["sh", "-c", INSTALL, "install"])
                .args(&missing),
        )
    }

    /// Whether the distribution has a package.
    fn has(&mut self, package: &str) -> Result<bool> {
        self.update(&[package])?;
        Ok(succeeds("apt-cache", &["show", package]))
    }

    fn update(&mut self, wanted: &[&str]) -> Result<()> {
        if !self.updated {
            process::run(as_root(wanted)?.args(["apt-get", "update", "--quiet"]))?;
            self.updated = true;
        }
        Ok(())
    }
}

/// Installs packages and starts none of their daemons, neither now (Debian Policy 9.3.3.2: `policy-rc.d`)
/// nor at the next start of the machine: tests have daemons of their own, in namespaces.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get install --yes --no-install-recommends "$@" || exit
for package in "$@"; do
    case $package in
        avahi-daemon | slapd) update-rc.d "$package" disable || true ;;
    esac
done
"#;

/// A command that runs what is added to it as root, where nobody can be asked.
fn as_root(wanted: &[&str]) -> Result<Command> {
    if find("apt-get").is_none() {
        bail!(
            "this distribution has no apt-get; install the equivalents of {}",
            wanted.join(", ")
        );
    }
    let mut command = if geteuid().is_root() {
        Command::new("env")
    } else if find("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    } else {
        bail!(
            "not root, and there is no sudo; run as root: apt-get install {}",
            wanted.join(" ")
        );
    };
    command.arg("DEBIAN_FRONTEND=noninteractive");
    Ok(command)
}

fn installed(package: &str) -> bool {
    let status = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    status.is_ok_and(|output| output.stdout == b"installed")
}

/// Where a program is; `ip` and daemons are often outside of a user's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command quietly, and gives up after some time; says whether it succeeded.
pub(crate) fn bounded(command: &mut Command, patience: Duration) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        return false;
    };
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if started.elapsed() < patience => thread::sleep(Duration::from_millis(50)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_can_be_met() {
        for need in NEEDS {
            assert!(
                !need.packages.is_empty() || need.install.is_some(),
                "{}",
                need.name
            );
            assert!(need.purposes.contains(&Purpose::Test), "{}", need.name);
        }
    }

    #[test]
    fn patience_ends() {
        let started = Instant::now();
        assert!(!bounded(
            Command::new("sleep").arg("60"),
            Duration::from_millis(50)
        ));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert!(bounded(&mut Command::new("true"), Duration::from_secs(30)));
    }
}
