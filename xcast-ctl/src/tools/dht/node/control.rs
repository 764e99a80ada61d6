//! The node's end of its control socket.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, warn};

use super::super::message::{Request, Response};
use crate::control::socket::{self, Found};

/// Longest request, in octets: an item of a thousand octets has two digits for each.
const MAX_REQUEST_LEN: u64 = 64 * 1024;
/// Clients served at once; more wait in the socket's backlog.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to send its request, and to read a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request on its way to the node.
#[derive(Debug)]
pub(super) struct Call {
    /// What is asked.
    pub(super) request: Request,
    /// Where answers go; the last one is no progress.
    pub(super) reply: mpsc::Sender<Response>,
}

/// The node's end of its control socket.
#[derive(Debug)]
pub(in super::super) struct Server {
    listener: UnixListener,
}

impl Server {
    /// Takes the control socket of this name in the network namespace of the calling thread. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// Such a node runs already, or the socket is not to be had.
    pub(in super::super) fn bind(name: &str) -> Result<Self> {
        let context = || format!("control socket @{name}");
        match socket::find(name).with_context(context)? {
            Found::Daemon(_) => bail!(
                "a DHT node runs in this network namespace already ({}); end it with xcast-ctl dht \
                 leave, or give this one a name of its own with --node",
                context()
            ),
            Found::Others(uid) => {
                warn!(
                    "user {uid} has the name of the {}; the node takes another",
                    context()
                );
            }
            Found::Busy | Found::Nobody => {}
        }
        let listener = socket::listen(name).with_context(context)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
        })
    }

    /// Serves clients for ever.
    pub(super) async fn serve(self, calls: mpsc::Sender<Call>) {
        let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of file descriptors: trying again at once would spin.
                    warn!(%error, "cannot accept a control client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Root trusts nobody but root; others are sent away.
            if socket::access(&stream, None).is_none() {
                continue;
            }
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let calls = calls.clone();
            tokio::spawn(async move {
                if let Err(error) = serve_client(stream, &calls).await {
                    debug!("control client: {error:#}");
                }
                drop(permit);
            });
        }
    }
}

async fn serve_client(mut stream: UnixStream, calls: &mpsc::Sender<Call>) -> Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST_LEN));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let (reply, mut responses) = mpsc::channel(16);
    match serde_json::from_str(&line) {
        Ok(request) => calls.send(Call { request, reply }).await?,
        Err(error) => {
            reply.try_send(Response::Error(format!("not a request: {error}")))?;
        }
    }
    while let Some(response) = responses.recv().await {
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        timeout(PATIENCE, stream.write_all(&line)).await??;
    }
    Ok(())
}
