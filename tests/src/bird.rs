//! BIRD, a routing daemon, in a namespace.

use std::fs;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::namespace::{self, Namespace};

/// A running BIRD; ended on drop.
#[derive(Debug)]
pub struct Bird {
    child: Child,
    _directory: TempDir,
}

impl Bird {
    /// Starts it with a configuration.
    ///
    /// # Errors
    ///
    /// BIRD is not installed, or cannot read that.
    pub fn start(namespace: &Namespace, configuration: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        let file = |name: &str| directory.path().join(name);
        fs::write(file("conf"), configuration)?;
        let bird = || {
            let mut bird = namespace.command("bird");
            bird.arg("-c").arg(file("conf")).arg("-s").arg(file("sock"));
            bird
        };
        namespace::run(bird().arg("-p"), "")
            .context("bird cannot read this; is it installed? cargo xtask setup does that")?;
        let child = bird()
            .arg("-f")
            .arg("-P")
            .arg(file("pid"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(file("log"))?)
            .spawn()
            .context("start bird")?;
        Ok(Self {
            child,
            _directory: directory,
        })
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
