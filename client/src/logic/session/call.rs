//! A call: what it waits with, and how it can end.

use std::fmt;

use node::logic::calls::CallPolicy;
use proto::ids::RequestId;
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use crate::logic::answers::{Answer, AnswerReader, BadAnswer};
use crate::logic::jobs::{NotSendable, Request};

use super::{ATTEMPT, FOR_EVER};

/// Names a call within its [`Session`](super::Session). Unlike a request id it stays the same when the request has
/// to be asked under another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Why a call was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCalled {
    /// As many requests are in flight as the masters allow. The request is handed back; there is
    /// room after the next answer.
    Full(Box<Request>),
    /// No master would take it.
    NotSendable(NotSendable),
}

impl fmt::Display for NotCalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotCalled::Full(_) => f.write_str("too many requests are in flight"),
            NotCalled::NotSendable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotCalled {}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// It was refused, and asking again does not help; or the masters' disk was full for as long
    /// as it was tried.
    Refused {
        /// The code.
        code: ErrorCode,
        /// A sentence for people.
        text: String,
    },
    /// No master answered in the time given. A request that was sent may have had its effect;
    /// submitting and cancelling may be repeated, a transaction should be looked for first.
    Unreachable {
        /// Time since the call.
        waited: Duration,
        /// What the last of them said, where one said something.
        last: Option<String>,
    },
    /// The masters no longer remember whether the request had its effect: look before repeating.
    OutcomeUnknown,
    /// What came as answer cannot be read.
    BadAnswer(BadAnswer),
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::Refused { code, text } if text.is_empty() => write!(f, "refused: {code}"),
            CallFailure::Refused { text, .. } => f.write_str(text),
            CallFailure::Unreachable { waited, last } => {
                write!(f, "no master answered within {waited}")?;
                last.as_ref().map_or(Ok(()), |last| write!(f, "; the last one said: {last}"))
            }
            CallFailure::OutcomeUnknown => {
                f.write_str("it is not known whether the request had its effect: look before ")?;
                f.write_str("repeating it")
            }
            CallFailure::BadAnswer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallFailure {}

/// A call that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The call.
    pub call: CallId,
    /// Its answer.
    pub result: Result<Answer, CallFailure>,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) reader: AnswerReader,
    pub(super) began: Instant,
    pub(super) patience: Duration,
    /// The number under which it is in flight; `None` while it waits for a session.
    pub(super) number: Option<RequestId>,
    /// Position among the changing requests of this session.
    pub(super) ordinal: Option<u64>,
    pub(super) was_sent: bool,
    /// How many requests had been sent more than once when this one was sent.
    pub(super) repeats_before: u64,
    pub(super) reissues: u32,
}

impl Pending {
    /// How long it is tried from now on.
    pub(super) fn policy(&self, now: Instant) -> CallPolicy {
        let left = (self.began + self.patience).since(now);
        CallPolicy {
            timeout: if self.request.is_parked() { FOR_EVER } else { ATTEMPT },
            attempts: u32::MAX,
            patience: if self.patience == FOR_EVER { FOR_EVER } else { left },
        }
    }
}
