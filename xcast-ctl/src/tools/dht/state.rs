//! What a node keeps over restarts: its identifier, its secret, and nodes to begin with.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use xcast_overlay::id::Id;

use super::parse::{hex, to_hex};
use crate::kernel;

/// What a node keeps over restarts.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Where; `None` to keep nothing.
    path: Option<PathBuf>,
    /// Its identifier; `None` for a new one.
    pub(super) id: Option<Id>,
    /// Secret of the key that it signs items and services with.
    pub(super) secret: [u8; 32],
    /// Nodes that were good.
    pub(super) nodes: Vec<SocketAddr>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    id: Option<Id>,
    secret: String,
    nodes: Vec<SocketAddr>,
}

impl State {
    /// Reads a file; one that is not there yet is a new node's.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has something else in it.
    pub(super) fn load(path: Option<&Path>) -> Result<Self> {
        let mut new = Self {
            path: path.map(Path::to_owned),
            id: None,
            secret: secret()?,
            nodes: Vec::new(),
        };
        let Some(path) = path else { return Ok(new) };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A place that cannot be written to is better known now.
                new.save()?;
                return Ok(new);
            }
            read => read.with_context(|| format!("--state: cannot read {}", path.display()))?,
        };
        let wrong = || format!("--state: {} is no state of a DHT node", path.display());
        let file: File = serde_json::from_str(&text).with_context(wrong)?;
        let octets = hex(&file.secret)
            .ok()
            .and_then(|octets| octets.try_into().ok());
        new.secret = octets.with_context(wrong)?;
        (new.id, new.nodes) = (file.id, file.nodes);
        Ok(new)
    }

    /// Writes it, if there is a place to.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let file = File {
            id: self.id,
            secret: to_hex(&self.secret),
            nodes: self.nodes.clone(),
        };
        let text = serde_json::to_string_pretty(&file)? + "\n";
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let write = || {
            // The secret is for its owner only.
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&beside)?.write_all(text.as_bytes())?;
            fs::rename(&beside, path)
        };
        write().with_context(|| format!("--state: cannot write {}", path.display()))
    }
}

fn secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    for octets in secret.chunks_mut(8) {
        octets.copy_from_slice(&kernel::random()?.to_ne_bytes());
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = State::load(Some(&path)).unwrap();
        state.id = Some(Id::hash_of(&[b"a node"]));
        state.nodes = vec!["[2001:db8::1]:6881".parse().unwrap()];
        state.save().unwrap();
        let read = State::load(Some(&path)).unwrap();
        assert_eq!((read.id, read.secret), (state.id, state.secret));
        assert_eq!(read.nodes, state.nodes);
        fs::write(&path, "{}").unwrap();
        let error = State::load(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("--state"), "{error}");
        let nowhere = directory.path().join("none/state");
        assert!(State::load(Some(&nowhere)).is_err());
    }
}
