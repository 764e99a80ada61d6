//! What is sent, packet by packet.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::args::Args;
use crate::tools::interrupt::{Interrupt, Woken};

/// The payloads, in order.
pub(super) enum Payloads {
    /// The same, `left` times.
    Fixed { payload: Vec<u8>, left: u64 },
    /// A text with the packet's number in it, `left` times.
    Text {
        text: String,
        payload: Vec<u8>,
        left: u64,
    },
    /// The lines of a file, until it ends.
    Lines {
        input: BufReader<File>,
        name: String,
        payload: Vec<u8>,
    },
}

/// What comes next.
pub(super) enum Next<'a> {
    Payload(&'a [u8]),
    /// That was the last one.
    End,
    /// The user interrupted while the next line was awaited.
    Interrupted,
}

impl Payloads {
    pub(super) fn open(args: &Args) -> Result<Self> {
        let left = args.count;
        let Some(path) = &args.file else {
            return Ok(match args.size {
                // One octet too many is enough for the error.
                Some(size) => Self::Fixed {
                    payload: vec![0; size.min(usize::from(u16::MAX) + 1)],
                    left,
                },
                None => Self::Text {
                    text: args.payload.clone(),
                    payload: Vec::new(),
                    left,
                },
            });
        };
        let name = path.display().to_string();
        let cannot = || format!("cannot read {name}");
        let mut input = if path == Path::new("-") {
            // Without the standard library's buffer, in which lines could wait unseen.
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path).with_context(cannot)?
        };
        if args.lines {
            let input = BufReader::new(input);
            let payload = Vec::new();
            return Ok(Self::Lines {
                input,
                name,
                payload,
            });
        }
        let mut payload = Vec::new();
        // One octet too many is enough for the error.
        let mut limited = (&mut input).take(u64::from(u16::MAX) + 1);
        limited.read_to_end(&mut payload).with_context(cannot)?;
        Ok(Self::Fixed { payload, left })
    }

    /// The next payload after the first `sent`.
    pub(super) fn next(&mut self, sent: u64, interrupt: &Interrupt) -> Result<Next<'_>> {
        match self {
            Self::Fixed { payload, left } => Ok(counted(payload, sent < *left)),
            Self::Text {
                text,
                payload,
                left,
            } => {
                *payload = text.replace("{n}", &(sent + 1).to_string()).into_bytes();
                Ok(counted(payload, sent < *left))
            }
            Self::Lines {
                input,
                name,
                payload,
            } => line(input, payload, interrupt).with_context(|| format!("cannot read {name}")),
        }
    }
}

fn counted(payload: &[u8], more: bool) -> Next<'_> {
    match more {
        true => Next::Payload(payload),
        false => Next::End,
    }
}

/// The next line, without its newline. Waits for it, but not longer than for an interrupt.
fn line<'a>(
    input: &mut BufReader<File>,
    payload: &'a mut Vec<u8>,
    interrupt: &Interrupt,
) -> io::Result<Next<'a>> {
    payload.clear();
    loop {
        if input.buffer().is_empty()
            && interrupt.wait(Some(input.get_ref().as_fd()), None)? == Woken::Interrupted
        {
            return Ok(Next::Interrupted);
        }
        let octets = input.fill_buf()?;
        let end = octets.iter().position(|octet| *octet == b'\n');
        let taken = end.map_or(octets.len(), |end| end + 1);
        payload.extend_from_slice(&octets[..end.unwrap_or(taken)]);
        input.consume(taken);
        match (end, taken) {
            (Some(_), _) => return Ok(Next::Payload(payload)),
            // The end of the file ends a line, too.
            (None, 0) if payload.is_empty() => return Ok(Next::End),
            (None, 0) => return Ok(Next::Payload(payload)),
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    #[test]
    fn lines_end_with_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(20_000);
        write!(file, "one\n\n{long}\nlast").unwrap();
        file.rewind().unwrap();
        let mut input = BufReader::new(file);
        let interrupt = Interrupt::new().unwrap();
        let mut payload = Vec::new();
        for expected in ["one", "", &long, "last"] {
            match line(&mut input, &mut payload, &interrupt).unwrap() {
                Next::Payload(payload) => assert_eq!(payload, expected.as_bytes()),
                Next::End | Next::Interrupted => panic!("{expected:.10} is missing"),
            }
        }
        let end = line(&mut input, &mut payload, &interrupt).unwrap();
        assert!(matches!(end, Next::End));
    }
}
