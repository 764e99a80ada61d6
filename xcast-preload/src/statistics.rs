//! What the library has done, in counters that any thread may raise, and that a signal handler may
//! print: no lock, no allocation.

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$meta])* $name,)*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

counters! {
    /// Messages that the program sent by `sendto`, `sendmsg` and `sendmmsg`.
    Sends,
    /// Datagrams that were taken into a group.
    Taken,
    /// Of these: they left in Xcast packets.
    Shared,
    /// Xcast packets.
    XcastPackets,
    /// Of those taken: they left one by one, since their group was smaller than the least.
    Few,
    /// Of those taken: they left one by one, since the router was lost meanwhile, or no packet had
    /// room for them.
    FellBack,
    /// Of those shared: they left again one by one, since the router, or somebody on the way to it, had
    /// refused their packet.
    SentAgain,
    /// Of those taken: the kernel refused them after the program had been told that they were sent.
    Failed,
    /// Groups that the timer ended, since the program called nothing that would.
    EndedByTimer,
    /// Passed: the router does not answer, or not yet.
    NoRouter,
    /// Passed: the destination is not in the allow-list.
    NotAllowed,
    /// Passed: the socket is connected, or has an option that an Xcast packet would not honour.
    Socket,
    /// Passed: the call has flags or control data that an Xcast packet would not honour.
    Call,
    /// Passed: the first datagram to a destination, for the kernel to judge it.
    NewDestination,
    /// Passed: the destination is on this host or on the link alone, or the source address towards it
    /// is another one.
    Destination,
    /// Passed: it leaves no room for a list.
    Size,
    /// Passed: the link is slower than the program, and more is queued than fits.
    Congestion,
}

static COUNTERS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// Raises a counter.
pub fn count(counter: Counter, by: usize) {
    if by == 0 {
        return;
    }
    COUNTERS[counter as usize].fetch_add(by as u64, Ordering::Relaxed);
}

/// Its value.
pub fn value(counter: Counter) -> u64 {
    COUNTERS[counter as usize].load(Ordering::Relaxed)
}

/// Begins again, in a child of this process.
pub fn reset() {
    for counter in &COUNTERS {
        counter.store(0, Ordering::Relaxed);
    }
}

/// A line of text in place: what does not fit is cut off.
pub struct Line {
    octets: [u8; 1024],
    len: usize,
}

impl Line {
    /// The octets, with a newline at the end.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.octets[self.len..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// All counters as a line: a JSON object, or text with those that are not zero.
pub fn line(process: u32, json: bool) -> Line {
    let mut line = Line {
        octets: [0; 1024],
        len: 0,
    };
    let _ = match json {
        true => write!(line, "{{\"pid\":{process}"),
        false => write!(line, "xcast: process {process}:"),
    };
    let mut separator = "";
    for (name, counter) in NAMES.iter().zip(&COUNTERS) {
        let value = counter.load(Ordering::Relaxed);
        if json {
            let _ = write!(line, ",\"{}\":{value}", Snake(name));
        } else if value > 0 {
            let _ = write!(line, "{separator} {} {value}", Snake(name));
            separator = ",";
        }
    }
    let _ = line.write_str(if json { "}\n" } else { "\n" });
    line
}

/// A name like `XcastPackets` as `xcast_packets`.
struct Snake<'a>(&'a str);

impl fmt::Display for Snake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, letter) in self.0.chars().enumerate() {
            if letter.is_ascii_uppercase() && place > 0 {
                f.write_char('_')?;
            }
            f.write_char(letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_as_text_and_as_json() {
        count(Counter::XcastPackets, 3);
        count(Counter::Shared, 60);
        let text = |json| String::from_utf8(line(7, json).octets().to_vec()).unwrap();
        assert_eq!(
            text(false),
            "xcast: process 7: shared 60, xcast_packets 3\n"
        );
        let json = text(true);
        assert!(json.starts_with("{\"pid\":7,\"sends\":0,"), "{json}");
        assert!(json.contains(",\"xcast_packets\":3,"), "{json}");
        assert!(json.ends_with("}\n"), "{json}");
    }
}
