//! Configurations for tests to make variants of.

use std::fmt;

use super::{Config, ConfigError};

pub(super) const CODE_POINTS: &str = "[code_points]\nprotocol = 253\ngroup = '224.0.0.254'\n";
pub(super) const PORT: &str = "[[port]]\ninterface = 'eth0'\n";

pub(super) fn with_router(lines: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!("{CODE_POINTS}[router]\n{lines}\n{PORT}"))
}

pub(super) fn with_ports(ports: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!("{CODE_POINTS}{ports}"))
}

#[track_caller]
pub(super) fn assert_says<T: fmt::Debug>(result: Result<T, ConfigError>, parts: &[&str]) {
    let error = result.expect_err("the configuration is wrong").to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert!(!error.contains('\n'), "{error:?} is one line");
}
