//! The programs that cargo builds of the workspace's tests, and how they are run: several at a time, because most of them wait
//! for kernels, peers and timers, and each has a few tests at its end that take long.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{build::cargo, process};

/// A program with tests.
#[derive(Debug)]
pub struct TestProgram {
    /// Its source file, for people.
    name: String,
    executable: PathBuf,
    /// That of the package, which cargo starts tests in.
    directory: PathBuf,
}

/// What cargo says of something that it has built.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Has cargo build the tests that these arguments of `cargo test` choose; `None` if they do not compile.
///
/// # Errors
///
/// Cargo cannot be run.
pub fn build(arguments: &[&str]) -> Result<Option<Vec<TestProgram>>> {
    let mut command = cargo();
    command
        .args(arguments)
        .args(["--no-run", "--message-format", "json-render-diagnostics"]);
    eprintln!("$ {}", process::name(&command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start cargo")?;
    let output = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        // Lines of another kind have other fields.
        if let Ok(artifact) = serde_json::from_str::<Artifact>(&line?) {
            programs.extend(artifact.program());
        }
    }
    if !child.wait()?.success() {
        return Ok(None);
    }
    if programs.is_empty() {
        bail!("cargo has built no tests");
    }
    programs.sort_by(|one, other| one.executable.cmp(&other.executable));
    Ok(Some(programs))
}

impl Artifact {
    fn program(self) -> Option<TestProgram> {
        if self.reason != "compiler-artifact" || !self.profile.test {
            return None;
        }
        let directory = self.manifest_path.parent()?.to_owned();
        let source = self.target.src_path;
        let package = directory.file_name().map(Path::new)?;
        let name = package.join(source.strip_prefix(&directory).unwrap_or(&source));
        Some(TestProgram {
            name: name.display().to_string(),
            executable: self.executable?,
            directory,
        })
    }
}

/// Runs programs, `at_once` of them at the same time, and says whether all succeeded. What each has printed, to its standard
/// error, too, is printed when it has ended, and handed to `see` line by line.
///
/// # Errors
///
/// One cannot be started.
pub fn run(
    programs: &[TestProgram],
    at_once: usize,
    arguments: &[&str],
    variables: &[(&str, &str)],
    mut see: impl FnMut(&str),
) -> Result<bool> {
    let queue = Mutex::new(programs.iter().collect::<VecDeque<_>>());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    thread::scope(|scope| {
        let (tell, ended) = mpsc::channel();
        for _ in 0..at_once {
            let tell = tell.clone();
            let next = &next;
            scope.spawn(move || {
                while let Some(program) = next() {
                    eprintln!("     Running {}", program.name);
                    let output = program.output(arguments, variables);
                    if tell.send((program, output)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        let mut all = true;
        for (program, output) in ended {
            let Output {
                text,
                errors,
                succeeded,
            } = output?;
            all &= succeeded;
            eprintln!("       Ended {}", program.name);
            for line in text.split_inclusive('\n').chain(errors.lines()) {
                see(line);
            }
            eprint!("{errors}");
            // Whoever does not want the output any longer still wants the result.
            let _ = io::stdout().write_all(text.as_bytes());
        }
        Ok(all)
    })
}

impl TestProgram {
    fn output(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new(&self.executable);
        let output = command
            .args(arguments)
            .envs(variables.iter().copied())
            // As cargo does.
            .env("CARGO_MANIFEST_DIR", &self.directory)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to start the tests of {}", self.name))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text += &format!("{}: {}\n", self.name, output.status);
        }
        Ok(Output {
            text,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            succeeded: output.status.success(),
        })
    }
}

/// How a program ended.
struct Output {
    /// What it wrote to its standard output.
    text: String,
    /// And to its standard error, past the harness: what it skips, above all.
    errors: String,
    succeeded: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(test: bool) -> Option<TestProgram> {
        let artifact = serde_json::json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///w/xcast-common#0.1.0",
            "manifest_path": "/w/xcast-common/Cargo.toml",
            "target": {"kind": ["test"], "name": "wire", "src_path": "/w/xcast-common/tests/wire.rs"},
            "profile": {"opt_level": "0", "test": test},
            "executable": "/w/target/debug/deps/wire-0123",
        });
        serde_json::from_value::<Artifact>(artifact)
            .unwrap()
            .program()
    }

    #[test]
    fn tests_are_told_from_programs() {
        assert!(program(false).is_none());
        let program = program(true).unwrap();
        assert_eq!(program.name, "xcast-common/tests/wire.rs");
        assert_eq!(program.directory, Path::new("/w/xcast-common"));
    }

    #[test]
    fn what_programs_print_is_seen_and_a_failure_is_told() {
        let shell = |text: &str| TestProgram {
            name: text.to_owned(),
            executable: PathBuf::from(text),
            directory: PathBuf::from("/"),
        };
        let mut seen = Vec::new();
        let mut all = |programs: &[TestProgram]| {
            run(programs, 2, &["one"], &[], |line| {
                seen.push(line.to_owned());
            })
        };
        assert!(all(&[shell("/bin/echo"), shell("/bin/echo")]).unwrap());
        assert!(!all(&[shell("/bin/echo"), shell("/bin/false")]).unwrap());
        // It has no such file, and says so.
        assert!(!all(&[shell("/bin/ls")]).unwrap());
        assert!(all(&[shell("/nowhere")]).is_err());
        assert_eq!(seen.iter().filter(|line| *line == "one\n").count(), 3);
        assert!(seen.iter().any(|line| line.contains("'one'")), "{seen:?}");
    }
}
