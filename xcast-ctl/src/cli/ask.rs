//! Questions to the running router.

use anyhow::{Result, bail};

use crate::control::{self, Request, Response};

/// Asks the running router; `expected` picks the report out of the response.
pub(super) fn ask<T>(
    router: &str,
    request: &Request,
    expected: impl FnOnce(Response) -> Option<T>,
) -> Result<T> {
    match expected(control::ask(router, request)?) {
        Some(report) => Ok(report),
        None => bail!(
            "the router's answer does not fit the question; is it of another version than this \
             command?"
        ),
    }
}
