//! How the verbs talk to a running router: one JSON line each way, over an abstract Unix socket.
//!
//! Abstract sockets belong to a network namespace, as the router does: `ip netns exec R1 xcast-ctl
//! stats` finds R1's router without any path, and a killed router leaves nothing behind. Several
//! routers in one namespace differ by the name of their interface.
//!
//! The [`Server`] turns each request into a [`Call`] for the daemon's event loop, which alone
//! knows the answer. Clients are bounded in number, size and time, so none can stall the daemon.
//! Both ends check that the other runs as root or as the same user, since anyone may bind an
//! abstract name.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::report::{Destination, Explain, NextHop, Port, Route, Stats, Status};

/// Longest request, in octets: [`Request::Explain`] with 127 destinations needs about 7 KiB.
const MAX_REQUEST_LEN: u64 = 64 * 1024;
/// Clients served at once; more wait in the socket's backlog.
const MAX_CLIENTS: usize = 16;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client waits for the response, all in all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a verb asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Response::Status`].
    Status,
    /// Answered by [`Response::Stats`].
    Stats,
    /// Answered by [`Response::Routes`], in the order of prefixes.
    Routes {
        /// Most rows to answer with; all without.
        #[serde(default)]
        limit: Option<usize>,
        /// Only those of IPv6, or only those of IPv4; both without.
        #[serde(default)]
        ipv6: Option<bool>,
    },
    /// Answered by [`Response::NextHops`], in the order of ids.
    NextHops,
    /// Answered by [`Response::Ports`], in the order of the configuration.
    Ports,
    /// Answered by [`Response::Explain`].
    Explain(ExplainRequest),
    /// Answered by [`Response::Stopping`]; then the router detaches and ends.
    Stop,
}

/// The packet [`Request::Explain`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Source address of the packet.
    pub source: IpAddr,
    /// Its destination list.
    pub destinations: Vec<Destination>,
    /// The X bit is set: the packet must stay Xcast.
    #[serde(default)]
    pub x: bool,
    /// Length of the IP packet in octets, for comparison with MTUs; without, as short as it can be.
    #[serde(default)]
    pub length: Option<u16>,
}

/// What the router answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", content = "report", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Routes`].
    Routes(Vec<Route>),
    /// To [`Request::NextHops`].
    NextHops(Vec<NextHop>),
    /// To [`Request::Ports`].
    Ports(Vec<Port>),
    /// To [`Request::Explain`].
    Explain(Explain),
    /// To [`Request::Stop`].
    Stopping,
    /// The request cannot be answered; says why.
    Error(String),
}

/// A request on its way to the daemon's event loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. A client that went away is no error: ignore it.
    pub reply: oneshot::Sender<Response>,
}

/// Why a running router could not be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "no xcast router is running in this network namespace (no control socket @{0}); start one \
         with: xcast-ctl run --config FILE"
    )]
    NotRunning(String),
    /// Somebody listens already.
    #[error(
        "an xcast router is running in this network namespace already (control socket @{0}); stop \
         it with: xcast-ctl unload"
    )]
    Running(String),
    /// The name is taken by a process that may not speak for a router, or the caller may not
    /// control one.
    #[error("control socket @{name}: {reason}")]
    Refused {
        /// Name of the socket.
        name: String,
        /// Who may not talk to whom.
        reason: String,
    },
    /// The router took the request and gave no answer.
    #[error("control socket @{name}: {reason}")]
    NoAnswer {
        /// Name of the socket.
        name: String,
        /// What may have happened.
        reason: &'static str,
    },
    /// The connection broke.
    #[error("control socket @{name}")]
    Io {
        /// Name of the socket.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something that is no response.
    #[error(
        "control socket @{name}: the router's answer makes no sense; is it of another version?"
    )]
    Answer {
        /// Name of the socket.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The router says that it cannot answer.
    #[error("{0}")]
    Router(String),
}

/// Name of the control socket of the router that owns `interface`.
fn socket_name(interface: &str) -> String {
    format!("xcast/{interface}")
}

fn socket_address(interface: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(socket_name(interface))
}

/// Root and the user itself may talk to each other.
fn trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// The daemon's end of the control socket.
#[derive(Debug)]
pub struct Server {
    listener: tokio::net::UnixListener,
}

impl Server {
    /// Takes the control socket of the router that owns `interface`, in the network namespace of
    /// the calling thread. Holding it also keeps a second router away. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ControlError::Running`] if there is such a router, [`ControlError::Io`] otherwise.
    pub fn bind(interface: &str) -> Result<Self, ControlError> {
        let bind = || {
            let listener = UnixListener::bind_addr(&socket_address(interface)?)?;
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(ControlError::Running(socket_name(interface)))
            }
            Err(source) => Err(ControlError::Io {
                name: socket_name(interface),
                source,
            }),
        }
    }

    /// Serves clients for ever. Once the receiver of `calls` is dropped they are told that the
    /// router is stopping: the socket has to stay until everything is detached, because its end is
    /// how others know.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve_client(stream, &calls).await {
                            tracing::debug!(%error, "control client");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: accepting again at once would spin.
                    tracing::warn!(%error, "cannot accept a control client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve_client(
    mut stream: tokio::net::UnixStream,
    calls: &mpsc::Sender<Call>,
) -> io::Result<()> {
    let response = answer(&mut stream, calls).await?;
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(RESPONSE_TIMEOUT, stream.write_all(&line)).await?
}

async fn answer(
    stream: &mut tokio::net::UnixStream,
    calls: &mpsc::Sender<Call>,
) -> io::Result<Response> {
    let uid = stream.peer_cred()?.uid();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(stream.take(MAX_REQUEST_LEN));
    timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
    // Only now, because a client does not listen before it has spoken.
    if !trusted(uid) {
        let refusal = format!("user {uid} may not control this router; use root");
        return Ok(Response::Error(refusal));
    }
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => return Ok(Response::Error(format!("not a request: {error}"))),
    };
    let (reply, response) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Ok(Response::Error("the router is stopping".to_owned()));
    }
    Ok(match timeout(ANSWER_TIMEOUT, response).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Response::Error("the router is stopping".to_owned()),
        Err(_) => Response::Error("the router is too busy to answer".to_owned()),
    })
}

/// Asks the router that owns `interface` in the network namespace of the calling thread.
///
/// # Errors
///
/// [`ControlError::NotRunning`] if there is none; otherwise see [`ControlError`].
pub fn ask(interface: &str, request: &Request) -> Result<Response, ControlError> {
    let name = socket_name(interface);
    let io_error = |source| ControlError::Io {
        name: name.clone(),
        source,
    };
    let stream = socket_address(interface)
        .and_then(|address| UnixStream::connect_addr(&address))
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => ControlError::NotRunning(name.clone()),
            _ => io_error(error),
        })?;
    let uid = getsockopt(&stream, PeerCredentials)
        .map_err(|errno| io_error(errno.into()))?
        .uid();
    // Root trusts nobody but root.
    if !trusted(uid) {
        return Err(ControlError::Refused {
            name,
            reason: format!("it belongs to user {uid}, who may not speak for a router"),
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

#[cfg(test)]
mod tests {
    use std::{io::Read as _, thread, time::Instant};

    use super::*;
    use crate::report::{self, Path};

    /// Answers like a router, in a thread of its own, until it is told to stop.
    fn fake_daemon(interface: &'static str) -> thread::JoinHandle<()> {
        let (started, start) = std::sync::mpsc::channel();
        let daemon = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(interface).unwrap();
                let (sender, mut calls) = mpsc::channel(1);
                tokio::spawn(server.serve(sender));
                started.send(()).unwrap();
                while let Some(call) = calls.recv().await {
                    let stop = call.request == Request::Stop;
                    let _ = call.reply.send(respond(call.request));
                    if stop {
                        // The answer has to leave; detaching takes longer than this, too.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        break;
                    }
                }
            });
        });
        start.recv().unwrap();
        daemon
    }

    fn respond(request: Request) -> Response {
        match request {
            Request::Stats => Response::Stats(Stats::new(Vec::new())),
            Request::Routes { limit, .. } => Response::Routes(vec![
                Route {
                    prefix: "10.0.0.0/8".parse().unwrap(),
                    next_hop: 3,
                    kind: "forward".into(),
                    via: None,
                    device: None,
                    table: None,
                    why: "because".into(),
                };
                limit.unwrap_or(100_000)
            ]),
            Request::Explain(request) => Response::Explain(Explain {
                copies: Vec::new(),
                skipped: request
                    .destinations
                    .into_iter()
                    .map(|destination| report::Skipped {
                        destination,
                        why: request.source.to_string(),
                    })
                    .collect(),
                path: Path::None,
            }),
            Request::Status => Response::Status(Status::example()),
            Request::Stop => Response::Stopping,
            _ => Response::Error("not now".into()),
        }
    }

    #[test]
    fn requests_and_responses_go_round() {
        let name = "test-round";
        assert!(matches!(
            ask(name, &Request::Status),
            Err(ControlError::NotRunning(_))
        ));
        let daemon = fake_daemon(name);
        assert_eq!(ask(name, &Request::Stats).unwrap(), respond(Request::Stats));
        let limited = Request::Routes {
            limit: Some(2),
            ipv6: None,
        };
        assert_eq!(ask(name, &limited).unwrap(), respond(limited));
        // Much more than a socket buffer holds.
        let all = Request::Routes {
            limit: None,
            ipv6: None,
        };
        let Response::Routes(routes) = ask(name, &all).unwrap() else {
            panic!("no routes");
        };
        assert_eq!(routes.len(), 100_000);
        let explain = Request::Explain(ExplainRequest {
            source: IpAddr::from([10, 0, 0, 1]),
            destinations: vec!["10.0.0.2:5".parse().unwrap(); 127],
            x: true,
            length: Some(1500),
        });
        assert_eq!(ask(name, &explain).unwrap(), respond(explain));
        assert_eq!(
            ask(name, &Request::Status).unwrap(),
            respond(Request::Status)
        );
        let error = ask(name, &Request::Ports).unwrap_err();
        assert_eq!(error.to_string(), "not now");
        assert_eq!(ask(name, &Request::Stop).unwrap(), Response::Stopping);
        daemon.join().unwrap();
        let error = ask(name, &Request::Status).unwrap_err().to_string();
        assert!(
            error.contains("@xcast/test-round") && error.contains("xcast-ctl run"),
            "{error}"
        );
    }

    #[test]
    fn a_second_router_is_refused() {
        let name = "test-second";
        let daemon = fake_daemon(name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let error = Server::bind(name).unwrap_err();
        assert!(matches!(error, ControlError::Running(_)), "{error}");
        ask(name, &Request::Stop).unwrap();
        daemon.join().unwrap();
    }

    #[test]
    fn bad_and_slow_clients_do_not_stall_others() {
        let name = "test-clients";
        let daemon = fake_daemon(name);
        let connect = || UnixStream::connect_addr(&socket_address(name).unwrap()).unwrap();
        // One says nothing, one reads nothing, one talks nonsense, one does not stop talking.
        let _silent = connect();
        let mut deaf = connect();
        deaf.write_all(b"{\"request\":\"routes\"}\n").unwrap();
        for nonsense in [
            &b"hello\n"[..],
            b"{\"request\":\"dance\"}\n",
            &vec![b'x'; 200_000],
        ] {
            let mut client = connect();
            // It may be cut off before it has said everything.
            let _ = client.write_all(nonsense);
            let mut answer = String::new();
            if client.read_to_string(&mut answer).is_ok() {
                assert!(answer.contains("not a request"), "{answer}");
            }
        }
        let started = Instant::now();
        ask(name, &Request::Stats).unwrap();
        assert!(started.elapsed() < REQUEST_TIMEOUT);
        ask(name, &Request::Stop).unwrap();
        daemon.join().unwrap();
    }
}
