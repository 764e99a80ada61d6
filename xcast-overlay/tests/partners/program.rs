//! Programs to talk with.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::Value;
use tokio::sync::mpsc;

/// A program that answers each line with one.
pub struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Program {
    pub fn start<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect(program);
        let output = child.stdout.take().expect("its output");
        let (sender, lines) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Sends a command, and waits for its answer.
    pub async fn ask(&mut self, command: Value) -> Value {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{command}").expect("a command");
        self.line().await
    }

    /// The next line.
    pub async fn line(&mut self) -> Value {
        let line = self.lines.recv().await.expect("the program has ended");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
