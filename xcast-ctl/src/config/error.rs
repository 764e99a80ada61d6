//! Why a configuration cannot be used.

use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path} (xcast-ctl init writes one)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Not TOML, an unknown field, or a value of the wrong type.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was expected.
        message: String,
    },
    /// A code point is not stated.
    #[error(
        "code_points.{field} is missing: add the line {example:?} under [code_points]; IANA has \
         assigned no code points to Xcast, and the experimental ones of RFC 4727 must not be \
         defaults: state the values that every router and source of this network uses"
    )]
    MissingCodePoint {
        /// Name of the field.
        field: &'static str,
        /// The line to add.
        example: &'static str,
    },
    /// A value that cannot work.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, with its table.
        field: String,
        /// What is wrong with its value, and the remedy.
        reason: String,
    },
}

/// A value that cannot work, and why.
pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

/// What the TOML parser says, with the place in the text it is about.
pub(super) fn syntax_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    ConfigError::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().replace('\n', "; "),
    }
}
