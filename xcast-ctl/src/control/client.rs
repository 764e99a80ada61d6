//! The verbs' end of the control socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use super::{
    error::ControlError,
    message::{Request, Response},
    socket::{self, Found},
};

/// How long a client waits for a place in the router's backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client waits for a response.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the router that owns `interface` in the network namespace of the calling thread.
///
/// # Errors
///
/// [`ControlError::NotRunning`] if there is none; otherwise see [`ControlError`].
pub fn ask(interface: &str, request: &Request) -> Result<Response, ControlError> {
    Connection::open(interface)?.ask(request)
}

/// A connection to a running router, for several questions.
#[derive(Debug)]
pub struct Connection {
    /// Name of the router's socket.
    name: String,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the router that owns `interface` in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotRunning`] if there is none; otherwise see [`ControlError`].
    pub fn open(interface: &str) -> Result<Self, ControlError> {
        let name = socket::name(interface);
        let io_error = |source| ControlError::Io {
            name: name.clone(),
            source,
        };
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let stream = loop {
            match socket::find(&name).map_err(io_error)? {
                Found::Daemon(stream) => break stream,
                Found::Nobody => return Err(ControlError::NotRunning(name)),
                Found::Others(uid) => {
                    return Err(ControlError::Refused {
                        name,
                        reason: format!(
                            "it belongs to user {uid}, and only root or this user may run the router"
                        ),
                    });
                }
                Found::Busy if Instant::now() > deadline => {
                    return Err(ControlError::NoAnswer {
                        name,
                        reason: "the router has too many clients",
                    });
                }
                Found::Busy => thread::sleep(Duration::from_millis(5)),
            }
        };
        stream
            .set_read_timeout(Some(CLIENT_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(CLIENT_TIMEOUT)))
            .map_err(io_error)?;
        Ok(Self {
            name,
            stream: BufReader::new(stream),
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`ControlError`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, ControlError> {
        let outcome = exchange(&mut self.stream, request);
        let no_answer = |reason| ControlError::NoAnswer {
            name: self.name.clone(),
            reason,
        };
        let line = outcome.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                no_answer("the router does not answer; is it still starting?")
            }
            io::ErrorKind::ConnectionReset => no_answer("the router ended before it answered"),
            _ => ControlError::Io {
                name: self.name.clone(),
                source: error,
            },
        })?;
        if line.is_empty() {
            return Err(no_answer("the router ended before it answered"));
        }
        match serde_json::from_str(&line) {
            Ok(Response::Error(message)) => Err(ControlError::Router(message)),
            Ok(response) => Ok(response),
            Err(source) => Err(ControlError::Answer {
                name: self.name.clone(),
                source,
            }),
        }
    }
}

fn exchange(stream: &mut BufReader<UnixStream>, request: &Request) -> io::Result<String> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    match stream.get_mut().write_all(line.as_bytes()) {
        // Sent away; it may have been told why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    let mut response = String::new();
    stream.read_line(&mut response)?;
    Ok(response)
}
