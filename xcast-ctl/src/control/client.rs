//! The verbs' end of the control socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{
    error::ControlError,
    message::{Request, Response},
    socket,
};

/// How long a client waits for the response, all in all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the router that owns `interface` in the network namespace of the calling thread.
///
/// # Errors
///
/// [`ControlError::NotRunning`] if there is none; otherwise see [`ControlError`].
pub fn ask(interface: &str, request: &Request) -> Result<Response, ControlError> {
    let name = socket::name(interface);
    let io_error = |source| ControlError::Io {
        name: name.clone(),
        source,
    };
    let stream = socket::address(interface)
        .and_then(|address| UnixStream::connect_addr(&address))
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => ControlError::NotRunning(name.clone()),
            _ => io_error(error),
        })?;
    let uid = getsockopt(&stream, PeerCredentials)
        .map_err(|errno| io_error(errno.into()))?
        .uid();
    // Root trusts nobody but root.
    if !socket::trusted(uid) {
        return Err(ControlError::Refused {
            name,
            reason: format!(
                "it belongs to user {uid}, and only root or this user may run the router"
            ),
        });
    }
    let no_answer = |reason| ControlError::NoAnswer {
        name: name.clone(),
        reason,
    };
    let line = exchange(&stream, request).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => no_answer("the router does not answer; is it still starting?"),
        io::ErrorKind::ConnectionReset => no_answer("the router ended before it answered"),
        _ => io_error(error),
    })?;
    if line.is_empty() {
        return Err(no_answer("the router ended before it answered"));
    }
    match serde_json::from_str(&line) {
        Ok(Response::Error(message)) => Err(ControlError::Router(message)),
        Ok(response) => Ok(response),
        Err(source) => Err(ControlError::Answer { name, source }),
    }
}

fn exchange(mut stream: &UnixStream, request: &Request) -> io::Result<String> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut response = String::new();
    BufReader::new(stream).read_line(&mut response)?;
    Ok(response)
}
