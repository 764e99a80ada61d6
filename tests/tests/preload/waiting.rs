//! Calls that may block, or end the process, while a group is open.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::family::Family;
use tests::namespace;

use crate::hosts::script;
use crate::wire::{INTERFACE, Run, Wire};

/// Destinations of a group.
pub const ALL: usize = 8;
/// The longest time that there is, so that nothing but calls ends a group.
const NEVER: [&str; 2] = ["--max-delay", "3599999"];

/// How the process ends, or becomes another one, with a group of the thread that ends it ("own") or of
/// another one ("other").
const ENDS: [&str; 29] = [
    "own_return",
    "own_exit",
    "own__exit",
    "own__Exit",
    "own_quick_exit",
    "own_exit_group",
    "own_abort",
    "own_kill",
    "own_raise",
    "own_tgkill",
    "own_execl",
    "own_execlp",
    "own_execle",
    "own_execv",
    "own_execve",
    "own_execvp",
    "own_execvpe",
    "own_execveat",
    "own_fexecve",
    "own_SYS_execve",
    "other_return",
    "other__exit",
    "other_exit_group",
    "other_abort",
    "other_kill",
    "other_execl",
    "other_execve",
    "other_execvp",
    "other_SYS_execve",
];

/// The program of all this.
pub struct Program {
    directory: TempDir,
}

impl Program {
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let output = Command::new("cc")
            .args(["-O0", "-fno-builtin", "-w", "-pthread", "-o"])
            .arg(directory.path().join("waiting"))
            .arg(script("waiting.c"))
            .output()
            .context("cc")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{stderr}");
        Ok(Self { directory })
    }

    /// The program.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("waiting")
    }

    /// Runs a case, or all that the process survives.
    pub fn run(&self, wire: &Wire, case: Option<&str>) -> Result<Run> {
        // However it ends.
        self.run_by(wire, "\"$@\" || true", case)
    }

    /// Runs a case by a script that is given the program's words.
    pub fn run_by(&self, wire: &Wire, script: &str, case: Option<&str>) -> Result<Run> {
        let mut command = wire.exec(&NEVER);
        command.args(["--", "sh", "-c", script, "sh"]);
        command.arg(self.path());
        command
            .args([INTERFACE, &wire.own().to_string()])
            .args(case);
        let run = wire.run(true, &mut command);
        run.with_context(|| case.unwrap_or("all").to_owned())
    }
}

/// The lines "case NAME NUMBER" of a program.
pub fn cases(run: &Run) -> Result<BTreeMap<&str, usize>> {
    let lines = run.answers.iter();
    let cases = lines.filter_map(|line| line.strip_prefix("case ")?.split_once(' '));
    cases
        .map(|(name, packets)| Ok((name, packets.parse()?)))
        .collect()
}

/// How many datagrams with this content arrived.
pub fn arrived(run: &Run, name: &str) -> usize {
    let sent = run.streams.values().flatten();
    let of_name = sent.filter(|sent| {
        let rest = sent.content.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b" "))
    });
    of_name.count()
}

#[test]
fn a_group_leaves_before_any_call_that_may_block() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, None)?;
        let cases = cases(&run)?;
        ensure!(
            cases.len() > 150,
            "{} cases: {:?}",
            cases.len(),
            run.answers
        );
        let wanted = |name: &str| usize::from(!name.starts_with("held"));
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(name, packets)| **packets != wanted(name))
            .collect();
        ensure!(wrong.is_empty(), "left after the call: {wrong:?}");
        // As one packet, to everyone.
        for name in cases.keys() {
            let shared = run.shared.get(name.as_bytes()).copied();
            ensure!(shared == Some(ALL), "{name}: {shared:?} shared a packet");
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

#[test]
fn groups_of_all_threads_leave_before_the_process_ends() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let program = Program::new()?;
        let mut lost = Vec::new();
        for name in ENDS {
            let run = program.run(&wire, Some(name))?;
            if run.shared.get(name.as_bytes()) != Some(&ALL) {
                lost.push(name);
            }
        }
        ensure!(lost.is_empty(), "lost: {lost:?}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A process whose main thread has ended ends with the last thread of the program, although the library
/// has one, too.
#[test]
fn the_process_ends_with_the_programs_last_thread() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let script = "timeout --signal KILL 60 \"$@\"; echo ended $?";
        let run = Program::new()?.run_by(&wire, script, Some("own_main_exits"))?;
        ensure!(run.answers == ["ended 0"], "{:?}", run.answers);
        for name in ["own_main_exits", "last"] {
            ensure!(arrived(&run, name) == ALL, "{name} is lost");
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// What is sent when the library has done its last, and by a child that nobody tells it of.
#[test]
fn nothing_is_lost_or_doubled_by_ends_and_children_of_other_kinds() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let program = Program::new()?;
        let also = [
            ("own_atexit", "late"),
            ("own_at_quick_exit", "late"),
            ("own_destructor", "late"),
            ("own_vfork_exec", "parent"),
            ("own_vfork_exit", "parent"),
            ("other__Fork", "other__Fork"),
            ("other__Fork_thread", "other__Fork_thread"),
        ];
        let mut wrong = Vec::new();
        for (name, also) in also {
            let run = program.run(&wire, Some(name))?;
            for content in [name, also] {
                let count = arrived(&run, content);
                if count != ALL {
                    wrong.push(format!("{name}: {count} of {content} arrived"));
                }
            }
            // The parent of a child in its memory goes on as before.
            if also == "parent" && cases(&run)?.get("held") != Some(&0) {
                wrong.push(format!("{name}: the parent does not go on"));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}
