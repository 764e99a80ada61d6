//! Why a running router could not be asked.

use std::io;

use thiserror::Error;

/// Why a running router could not be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No router listens.
    #[error(
        "no xcast router is running in this network namespace (no control socket @{0}); start one \
         with: xcast-ctl run --config FILE"
    )]
    NotRunning(String),
    /// A router listens already.
    #[error(
        "an xcast router is running in this network namespace already (control socket @{0}); stop \
         it with: xcast-ctl unload"
    )]
    Running(String),
    /// The socket belongs to a user who may not run a router for the caller.
    #[error("control socket @{name}: {reason}")]
    Refused {
        /// Name of the socket.
        name: String,
        /// Whose it is.
        reason: String,
    },
    /// The router accepted the request but gave no answer.
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
    /// The answer is not a response.
    #[error("control socket @{name}: cannot parse the router's answer; is it of another version?")]
    Answer {
        /// Name of the socket.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The router answered with an error.
    #[error("{0}")]
    Router(String),
}
