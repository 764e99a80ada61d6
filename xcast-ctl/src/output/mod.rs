//! What a verb prints, and how it ended.

pub(crate) mod table;

use std::io::{self, Write as _};

use anyhow::Result;
use serde::Serialize;

/// How a verb that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done; exit status 0.
    Done,
    /// The answer is no; exit status 1.
    No,
}

/// Standard output cannot be written to. A type of its own, so that a broken pipe there is told
/// from a broken connection elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct OutputClosed(#[source] pub(crate) io::Error);

/// Writes to standard output and flushes it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| OutputClosed(error).into())
}

/// Prints an answer: as one JSON document, or as text.
pub(crate) fn print_answer<T: Serialize + ?Sized>(
    json: bool,
    answer: &T,
    render: impl FnOnce(&T) -> String,
) -> Result<()> {
    if json {
        print_json(answer)
    } else {
        print(&render(answer))
    }
}

/// Writes one JSON document, indented for people.
pub(crate) fn print_json(document: &(impl Serialize + ?Sized)) -> Result<()> {
    print(&(serde_json::to_string_pretty(document)? + "\n"))
}

/// Writes one JSON document of a stream, on its own line.
pub(crate) fn print_json_line(document: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string(document)? + "\n"))
}
