//! The router's end of the control socket.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    error::ControlError,
    message::{Request, Response},
    socket::{self, Access, Found},
};

/// Longest request, in octets: [`Request::Explain`] with 127 destinations needs about 7 KiB.
const MAX_REQUEST_LEN: u64 = 64 * 1024;
/// Clients served at once; more wait in the socket's backlog.
const MAX_CLIENTS: usize = 64;
/// Of these, clients that may only read: they take no place from those who control the router.
const MAX_READERS: usize = 16;
/// How long a client may take to send its request, the first one or another.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the event loop may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read its response, of which a socket's buffer holds most or all. One that does not read keeps its
/// place for so long, and no more than one response in memory.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A request on its way to the router's event loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. A client may be gone; that is no error.
    pub reply: oneshot::Sender<Response>,
}

/// The router's end of the control socket.
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
        let io_error = |source| ControlError::Io {
            name: socket::name(interface),
            source,
        };
        // Who answers, or has too much to do to answer, runs. The name of somebody else does not count.
        match socket::find(&socket::name(interface)).map_err(io_error)? {
            Found::Daemon(_) => return Err(ControlError::Running(socket::name(interface))),
            Found::Others(uid) => tracing::warn!(
                "user {uid} has the name of the control socket, @{}; the router takes another",
                socket::name(interface)
            ),
            Found::Busy | Found::Nobody => {}
        }
        let listen = || {
            let listener = socket::listen(&socket::name(interface))?;
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        };
        let listener = listen().map_err(io_error)?;
        Ok(Self { listener })
    }

    /// Serves clients for ever. Once the receiver of `calls` is dropped, clients are told that the
    /// router is stopping. Keep serving until everything is detached: that the socket is gone tells
    /// others that it is.
    ///
    /// Root and the router's own user may ask everything, members of the group `readers` what changes nothing.
    pub async fn serve(self, calls: mpsc::Sender<Call>, readers: watch::Receiver<Option<u32>>) {
        let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
        let reading = Arc::new(Semaphore::new(MAX_READERS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of file descriptors: trying again at once would spin.
                    tracing::warn!(%error, "cannot accept a control client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(access) = socket::access(&stream, *readers.borrow()) else {
                send_away(&stream);
                continue;
            };
            let permit = match access {
                Access::Full => Arc::clone(&permits).acquire_owned().await.ok(),
                Access::Read => Arc::clone(&reading).try_acquire_owned().ok(),
            };
            let Some(permit) = permit else {
                refuse(
                    &stream,
                    "the router has too many clients; try again".to_owned(),
                );
                continue;
            };
            let calls = calls.clone();
            tokio::spawn(async move {
                if let Err(error) = serve_client(stream, access, &calls).await {
                    tracing::debug!(%error, "control client");
                }
                drop(permit);
            });
        }
    }
}

/// Sends away who may not ask, at once, whatever they say or do not say: they take no place from those who may.
fn send_away(stream: &tokio::net::UnixStream) {
    if let Ok(peer) = stream.peer_cred() {
        let uid = peer.uid();
        refuse(
            stream,
            format!(
                "user {uid} may not ask this router: use root, or make the user a member of the group router.readers"
            ),
        );
    }
}

/// Tells a client why it gets no answer, if it takes that at once.
fn refuse(stream: &tokio::net::UnixStream, why: String) {
    if let Ok(mut line) = serde_json::to_vec(&Response::Error(why)) {
        line.push(b'\n');
        let _ = stream.try_write(&line);
    }
}

/// Answers requests one after the other, until the client goes or says nothing for a while.
async fn serve_client(
    mut stream: tokio::net::UnixStream,
    access: Access,
    calls: &mpsc::Sender<Call>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut request = String::new();
        let mut limited = (&mut reader).take(MAX_REQUEST_LEN);
        let len = timeout(REQUEST_TIMEOUT, limited.read_line(&mut request)).await??;
        if len == 0 {
            return Ok(());
        }
        let request = serde_json::from_str::<Request>(&request);
        let is_last = request.is_err();
        let response = match request {
            Ok(request) if access == Access::Read && !request.is_reading() => {
                Response::Error("only root may stop this router".to_owned())
            }
            Ok(request) => answer(request, calls).await,
            Err(error) => Response::Error(format!("not a request: {error}")),
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        timeout(RESPONSE_TIMEOUT, writer.write_all(&line)).await??;
        if is_last {
            return Ok(());
        }
    }
}

async fn answer(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (reply, response) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Response::Error("the router is stopping".to_owned());
    }
    match timeout(ANSWER_TIMEOUT, response).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Response::Error("the router is stopping".to_owned()),
        Err(_) => Response::Error("the router is too busy to answer".to_owned()),
    }
}
