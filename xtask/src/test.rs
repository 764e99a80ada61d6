//! `cargo xtask test`: exactly what continuous integration runs.

use std::{
    env,
    num::NonZero,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use crate::{
    build::cargo,
    process,
    second_try::Seen,
    setup::{self, bounded},
    test_programs, toolchain, workspace,
};

/// How long the advisory database may take to arrive before its check is skipped.
const ADVISORIES_PATIENCE: Duration = Duration::from_secs(60);

/// Cases of each property under Miri, which takes some thousand times as long as the processor.
const MIRI_CASES: &str = "2";

/// Features that are off by default and tested all the same.
const OPTIONAL: &str = "xcast-overlay/net";

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
    /// Without root, skip the tests that need it instead of failing
    #[arg(long)]
    allow_skip: bool,
    /// What the random cases of properties are drawn from: the same in every run, others with another number
    #[arg(long, default_value_t = 5058)]
    seed: u64,
    /// Given to the test programs: a filter by name, or their options
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// How a step ended.
enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// Runs `cargo xtask test`: all steps, also after one has failed.
///
/// # Errors
///
/// Not root, or something is missing and may or can not be installed.
pub fn run(arguments: &Test) -> Result<ExitCode> {
    if !geteuid().is_root() && !arguments.allow_skip {
        bail!(
            "the tests need root, for network namespaces and BPF; run this as root, or skip them with --allow-skip"
        );
    }
    setup::ensure(setup::Purpose::Test, arguments.no_setup)?;
    let mut steps = Steps::default();
    steps.cargo("format", &["fmt", "--all", "--check"], &[]);
    steps.cargo(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--exclude",
            "xcast-ebpf",
            "--exclude",
            "xcast-bench-ebpf",
            "--all-targets",
            "--features",
            OPTIONAL,
            "--",
            "-D",
            "warnings",
        ],
        &[],
    );
    steps.step("clippy of the BPF programs", bpf_clippy);
    steps.cargo(
        "deny",
        &[
            "deny",
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ],
        &[],
    );
    steps.step("advisories", advisories);
    steps.cargo(
        "documentation",
        &[
            "doc",
            "--workspace",
            "--exclude",
            "xcast-ebpf",
            "--exclude",
            "xcast-bench-ebpf",
            "--no-deps",
            "--document-private-items",
            "--features",
            OPTIONAL,
        ],
        &[("RUSTDOCFLAGS", "-D warnings")],
    );
    steps.step("undefined behaviour (Miri)", miri);
    let router = router()?;
    let processors = thread::available_parallelism().map_or(2, NonZero::get);
    // Tests wait for kernels, peers and timers most of the time.
    let threads = env::var("RUST_TEST_THREADS").unwrap_or((processors + 1).to_string());
    // A run tells about a change, and not about its luck.
    let seed = arguments.seed.to_string();
    let mut variables = vec![
        ("XCAST_CTL", router.as_str()),
        ("PROPTEST_RNG_SEED", &seed),
        ("RUST_TEST_THREADS", &threads),
    ];
    if arguments.allow_skip {
        variables.push(("XCAST_ALLOW_SKIP", "1"));
    }
    steps.table();
    // Last, so that the counted results are what one sees in the end.
    let (mut again, mut skipped) = (Vec::new(), Vec::new());
    let arguments: Vec<_> = arguments.arguments.iter().map(String::as_str).collect();
    steps.step("tests", || {
        tests(&arguments, &variables, processors, &mut again, &mut skipped)
    });
    for why in skipped {
        eprintln!("xtask: skipped: {why}");
    }
    if !again.is_empty() {
        eprintln!(
            "\nxtask: passed at the second try only: {}",
            again.join(", ")
        );
    }
    Ok(steps.finish())
}

#[derive(Default)]
struct Steps {
    ended: Vec<(&'static str, Duration, Outcome)>,
}

impl Steps {
    fn cargo(&mut self, name: &'static str, arguments: &[&str], variables: &[(&str, &str)]) {
        self.step(name, || {
            let mut command = cargo();
            command.args(arguments).envs(variables.iter().copied());
            attempt(&mut command)
        });
    }

    fn step(&mut self, name: &'static str, action: impl FnOnce() -> Result<Outcome>) {
        eprintln!("\n== {name}");
        let started = Instant::now();
        let outcome = action().unwrap_or_else(|error| {
            eprintln!("xtask: {error:#}");
            Outcome::Failed
        });
        self.ended.push((name, started.elapsed(), outcome));
    }

    fn table(&self) {
        eprintln!();
        for (name, duration, outcome) in &self.ended {
            let outcome = match outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::Skipped(why) => &format!("skipped: {why}"),
            };
            eprintln!("{name:27} {:6.1} s  {outcome}", duration.as_secs_f64());
        }
    }

    fn finish(&self) -> ExitCode {
        let failed: Vec<_> = self
            .ended
            .iter()
            .filter(|(.., outcome)| matches!(outcome, Outcome::Failed))
            .map(|(name, ..)| *name)
            .collect();
        if failed.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("xtask: failed: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

fn attempt(command: &mut Command) -> Result<Outcome> {
    eprintln!("$ {}", process::name(command));
    Ok(match process::status(command)?.success() {
        true => Outcome::Passed,
        false => Outcome::Failed,
    })
}

/// The program that tests run: the one that cargo builds for the tests of `xcast-ctl`, beside this program, before any
/// test runs. Without being told, tests of other packages would build it once more, with other features of its
/// dependencies.
fn router() -> Result<String> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let path = own.with_file_name("xcast-ctl");
    let text = path.to_str().context("the workspace's path is not UTF-8")?;
    Ok(text.to_owned())
}

/// What of the workspace `cargo test` is to take.
const TESTED: [&str; 8] = [
    "test",
    "--workspace",
    "--exclude",
    "xcast-ebpf",
    "--exclude",
    "xcast-bench-ebpf",
    "--features",
    OPTIONAL,
];

/// Runs the tests, programs at the same time, and a few that failed once more, by themselves; those that pass then are added to
/// `again`. What they say that they cannot test here is added to `skipped`.
fn tests(
    arguments: &[&str],
    variables: &[(&str, &str)],
    at_once: usize,
    again: &mut Vec<String>,
    skipped: &mut Vec<String>,
) -> Result<Outcome> {
    let Some(programs) = test_programs::build(&TESTED)? else {
        return Ok(Outcome::Failed);
    };
    let all = |at_once, arguments: &[&str], seen: &mut Seen| -> Result<bool> {
        let passed = test_programs::run(&programs, at_once, arguments, variables, |line| {
            seen.line(line);
        })?;
        let mut command = cargo();
        command.args(TESTED).args(["--doc", "--no-fail-fast", "--"]);
        command.args(arguments).envs(variables.iter().copied());
        eprintln!("$ {}", process::name(&command));
        let of_docs = process::lines(&mut command, |line| seen.line(line))?;
        Ok(passed && of_docs.success())
    };
    let mut seen = Seen::default();
    let passed = all(at_once, arguments, &mut seen)?;
    skipped.extend(seen.skipped().map(str::to_owned));
    if passed {
        return Ok(Outcome::Passed);
    }
    let Some(failed) = seen.worth_a_second_try() else {
        return Ok(Outcome::Failed);
    };
    eprintln!("\n== a second try for {}", failed.join(", "));
    let mut exactly = vec!["--exact", "--test-threads=1"];
    exactly.extend(failed.iter().map(String::as_str));
    let mut second = Seen::default();
    if !all(1, &exactly, &mut second)? || !second.have_passed(failed) {
        return Ok(Outcome::Failed);
    }
    again.extend_from_slice(failed);
    Ok(Outcome::Passed)
}

/// The programs' own compiler has to look at them: other targets do not have their intrinsics.
fn bpf_clippy() -> Result<Outcome> {
    let Some(name) = toolchain::select() else {
        bail!("there is no BPF toolchain; run: cargo xtask setup");
    };
    let target = if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    let mut command = Command::new("rustup");
    command
        .args([
            "run",
            &name,
            "cargo",
            "clippy",
            "--package",
            "xcast-ebpf",
            "--package",
            "xcast-bench-ebpf",
            "--release",
            "--target",
            target,
        ])
        .args(["-Z", "build-std=core", "--", "-D", "warnings"])
        .current_dir(workspace())
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        );
    without_own_toolchain(&mut command);
    if toolchain::needs_bootstrap(&name) {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    attempt(&mut command)
}

/// Runs the unit tests of what the BPF programs share with the host in an interpreter that finds undefined behaviour.
/// Miri is a component of nightly toolchains, and not installed for this: where there is none, nothing is missing but
/// this step.
fn miri() -> Result<Outcome> {
    let mut version = Command::new("rustup");
    version.args(["run", toolchain::NIGHTLY, "cargo", "miri", "--version"]);
    without_own_toolchain(&mut version);
    let has_miri = version.output().is_ok_and(|out| out.status.success());
    if !has_miri || !toolchain::has_rust_src(toolchain::NIGHTLY) {
        let why = "not installed (rustup component add --toolchain nightly miri rust-src)";
        eprintln!("Miri is {why}");
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    let mut command = Command::new("rustup");
    command
        .args(["run", toolchain::NIGHTLY, "cargo", "miri", "test"])
        .args(["--package", "xcast-common", "--lib"])
        .current_dir(workspace())
        .env("PROPTEST_CASES", MIRI_CASES)
        // Of the file system, properties want to know where they are.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation");
    without_own_toolchain(&mut command);
    attempt(&mut command)
}

/// Takes away what is set by the cargo that runs us, for a cargo of another toolchain.
fn without_own_toolchain(command: &mut Command) {
    for variable in [
        "CARGO",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(variable);
    }
}

fn advisories() -> Result<Outcome> {
    let mut fetch = cargo();
    fetch.args(["deny", "fetch", "db"]);
    if !bounded(&mut fetch, ADVISORIES_PATIENCE) {
        let why = "the advisory database cannot be fetched here";
        eprintln!("{why}");
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    let mut check = cargo();
    check.args([
        "deny",
        "--offline",
        "--log-level",
        "error",
        "check",
        "advisories",
    ]);
    attempt(&mut check)
}
