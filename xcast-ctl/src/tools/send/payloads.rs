//! What is sent, packet by packet.

use std::{
    fs,
    io::{self, BufRead as _, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::args::Args;

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
        input: Box<dyn io::BufRead>,
        name: String,
        payload: Vec<u8>,
    },
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
        let mut input: Box<dyn io::BufRead> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(io::BufReader::new(
                fs::File::open(path).with_context(cannot)?,
            ))
        };
        if args.lines {
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

    /// The next payload after the first `sent`; `None` after the last.
    pub(super) fn next(&mut self, sent: u64) -> Result<Option<&[u8]>> {
        match self {
            Self::Fixed { payload, left } => Ok((sent < *left).then_some(payload)),
            Self::Text {
                text,
                payload,
                left,
            } => {
                *payload = text.replace("{n}", &(sent + 1).to_string()).into_bytes();
                Ok((sent < *left).then_some(payload))
            }
            Self::Lines {
                input,
                name,
                payload,
            } => {
                payload.clear();
                let read = input.read_until(b'\n', payload);
                if read.with_context(|| format!("cannot read {name}"))? == 0 {
                    return Ok(None);
                }
                if payload.last() == Some(&b'\n') {
                    payload.pop();
                }
                Ok(Some(payload))
            }
        }
    }
}
