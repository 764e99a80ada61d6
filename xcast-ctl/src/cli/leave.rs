//! Has a running router end.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::control::{self, ControlError, Request};

/// How long a router may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the router to end, in the way of `request`, and waits until it is gone; false if there was none.
pub(super) fn ask(router: &str, request: &Request) -> Result<bool> {
    match control::ask(router, request) {
        // One that ends at once may not get to answer.
        Ok(_) | Err(ControlError::NoAnswer { .. }) => {}
        Err(ControlError::NotRunning(_)) => return Ok(false),
        Err(error) => return Err(error).context("cannot stop the router"),
    }
    let deadline = Instant::now() + PATIENCE;
    // It holds the control socket until it has ended. A request that fails for another reason
    // reached a router that is ending.
    while !matches!(
        control::ask(router, &Request::Status),
        Err(ControlError::NotRunning(_))
    ) {
        if Instant::now() > deadline {
            bail!(
                "the router was told to stop but still runs after {} s: see its log",
                PATIENCE.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}
