//! Errors that nodes send to each other (BEP 5 and BEP 44).

use std::fmt;

/// What a node answers to a query that it does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// What kind of error.
    pub code: ErrorCode,
    /// An explanation in English, for people.
    pub message: String,
}

impl QueryError {
    /// An error of this kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.number(), self.message)
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorCode {
    /// 201: any other error.
    Generic,
    /// 202: the server has failed.
    Server,
    /// 203: a malformed packet, invalid arguments, or a bad token.
    Protocol,
    /// 204: the method is unknown.
    MethodUnknown,
    /// 205: `v` is longer than 1000 octets (BEP 44).
    ValueTooLong,
    /// 206: the signature is not valid (BEP 44).
    InvalidSignature,
    /// 207: the salt is longer than 64 octets (BEP 44).
    SaltTooLong,
    /// 301: `cas` is not the stored item's sequence number (BEP 44).
    CasMismatch,
    /// 302: the sequence number is smaller than the stored item's (BEP 44).
    SequenceTooSmall,
    /// A number that no specification here has.
    Other(i64),
}

impl ErrorCode {
    const KNOWN: [(Self, i64); 9] = [
        (Self::Generic, 201),
        (Self::Server, 202),
        (Self::Protocol, 203),
        (Self::MethodUnknown, 204),
        (Self::ValueTooLong, 205),
        (Self::InvalidSignature, 206),
        (Self::SaltTooLong, 207),
        (Self::CasMismatch, 301),
        (Self::SequenceTooSmall, 302),
    ];

    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Self::Other(number) => number,
            known => Self::KNOWN
                .iter()
                .find(|(code, _)| *code == known)
                .map_or(201, |(_, n)| *n),
        }
    }

    /// The kind that a number stands for.
    pub fn from_number(number: i64) -> Self {
        let known = Self::KNOWN.iter().find(|(_, known)| *known == number);
        known.map_or(Self::Other(number), |(code, _)| *code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_back() {
        for number in [201, 202, 203, 204, 205, 206, 207, 301, 302, 999] {
            assert_eq!(ErrorCode::from_number(number).number(), number);
        }
        assert_eq!(ErrorCode::CasMismatch.number(), 301);
    }
}
