//! Standard input and output, in threads of their own: a full pipe must not keep a member from
//! passing the stream on.

use std::{
    io::{self, Read as _, Write as _},
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Messages that wait to be sent, or written.
const WAITING: usize = 64;
const WAITING_OUT: usize = 16_384;

/// What comes in at standard input, in pieces of at most `most` octets, until its end.
pub(super) fn input(most: usize) -> Result<mpsc::Receiver<io::Result<Bytes>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let read = move || {
        let mut buffer = vec![0; most];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => Ok(Bytes::copy_from_slice(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("input".to_owned()).spawn(read);
    thread.context("cannot start a thread")?;
    Ok(receiver)
}

/// Standard output.
pub(super) struct Output {
    sender: Option<SyncSender<Bytes>>,
    /// Says how it ended.
    pub ended: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    pub(super) fn open() -> Result<Self> {
        let (sender, receiver) = sync_channel::<Bytes>(WAITING_OUT);
        let (say, ended) = oneshot::channel();
        let write = move || {
            let write = || {
                let mut stdout = io::stdout().lock();
                while let Ok(piece) = receiver.recv() {
                    stdout.write_all(&piece)?;
                    stdout.flush()?;
                }
                Ok(())
            };
            // If nobody listens any more, there is nobody to tell.
            let _ = say.send(write());
        };
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(write);
        thread.context("cannot start a thread")?;
        Ok(Self {
            sender: Some(sender),
            ended,
        })
    }

    /// False if whoever reads is so slow that this piece is dropped.
    pub(super) fn write(&self, piece: Bytes) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        !matches!(sender.try_send(piece), Err(TrySendError::Full(_)))
    }

    /// Nothing more will come.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }
}
