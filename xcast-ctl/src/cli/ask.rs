//! Questions to the running router.

use anyhow::{Result, bail};

use crate::control::{Connection, Page, Request, Response};

/// Asks the running router; `expected` picks the report out of the response.
pub(super) fn ask<T>(
    router: &str,
    request: &Request,
    expected: impl FnOnce(Response) -> Option<T>,
) -> Result<T> {
    ask_on(&mut Connection::open(router)?, request, expected)
}

/// Asks for a long table page by page; `request` asks for a page, given the last row of the one before and how
/// many rows are wanted still.
pub(super) fn ask_pages<T>(
    router: &str,
    most: Option<usize>,
    request: impl Fn(Option<&T>, Option<usize>) -> Request,
    expected: impl Fn(Response) -> Option<Page<T>>,
) -> Result<Vec<T>> {
    let mut connection = Connection::open(router)?;
    let mut rows: Vec<T> = Vec::new();
    loop {
        let wanted = most.map(|most| most.saturating_sub(rows.len()));
        let page = ask_on(&mut connection, &request(rows.last(), wanted), &expected)?;
        let ends = page.rows.is_empty() || !page.more;
        rows.extend(page.rows);
        if ends || most.is_some_and(|most| rows.len() >= most) {
            return Ok(rows);
        }
    }
}

fn ask_on<T>(
    connection: &mut Connection,
    request: &Request,
    expected: impl FnOnce(Response) -> Option<T>,
) -> Result<T> {
    match expected(connection.ask(request)?) {
        Some(report) => Ok(report),
        None => bail!(
            "the router's answer does not fit the question; is it of another version than this \
             command?"
        ),
    }
}
