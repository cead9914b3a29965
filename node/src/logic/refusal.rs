//! `error_reply` as a value: made by whoever refuses, read by whoever asked.

use proto::ids::RequestId;
use proto::limits;
use proto::messages::session::ErrorReply;
use proto::record::{Envelope, Record, RecordError, encode};
use proto::status::ErrorCode;
use proto::time::Duration;

/// Why a peer refused a record or failed at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong; says whether trying again can help.
    pub code: ErrorCode,
    /// The refused record's type; 0 where it cannot be told.
    pub refused_type: u8,
    /// How long to wait before trying again.
    pub retry_after: Duration,
    /// One sentence for people; cut at [`limits::ERROR_TEXT_BYTES`].
    pub text: String,
    /// Address of the node to ask instead; empty where there is none to name.
    pub instead: String,
}

impl Refusal {
    /// A refusal of a record, without delay or another address.
    #[must_use]
    pub fn new(code: ErrorCode, refused_type: u8, text: impl Into<String>) -> Refusal {
        let (retry_after, instead) = (Duration::ZERO, String::new());
        Refusal { code, refused_type, retry_after, text: text.into(), instead }
    }

    /// The record that answers a request.
    #[must_use]
    pub fn to_record(&self, request: RequestId) -> Vec<u8> {
        let reply = ErrorReply {
            envelope: Envelope { request_id: request.0, ..Default::default() },
            code: self.code.to_wire(),
            refused_type: self.refused_type,
            retry_after_ms: u32::try_from(self.retry_after.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let text = cut(&self.text, limits::ERROR_TEXT_BYTES).as_bytes();
        let instead = cut(&self.instead, limits::ERROR_TEXT_BYTES).as_bytes();
        encode(&reply, &[text, instead])
    }

    /// What an `error_reply` says. A code of a later version is read as the general one of its
    /// kind: [`ErrorCode::Unavailable`] where trying again can help, else [`ErrorCode::Invalid`].
    ///
    /// # Errors
    /// Where the record is another message or its parts do not fit.
    pub fn from_record(record: &Record<'_>) -> Result<Refusal, RecordError> {
        let (reply, [text, instead]) = record.open::<ErrorReply, 2>()?;
        let general = if reply.code < 100 { ErrorCode::Unavailable } else { ErrorCode::Invalid };
        Ok(Refusal {
            code: ErrorCode::from_wire(reply.code).unwrap_or(general),
            refused_type: reply.refused_type,
            retry_after: Duration::from_millis(u64::from(reply.retry_after_ms)),
            text: read_text(text),
            instead: read_text(instead),
        })
    }
}

/// Text from a peer: what is not UTF-8 replaced, the rest cut.
pub(super) fn read_text(bytes: &[u8]) -> String {
    let bytes = bytes.get(..limits::ERROR_TEXT_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

fn cut(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proto::record::Records;

    use super::*;

    fn read(record: &[u8]) -> Refusal {
        Refusal::from_record(&Records::of(record).next().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut refusal = Refusal::new(ErrorCode::NotLeader, 0x10, "ask the leader");
        refusal.instead = "tcp://127.0.0.1:1".into();
        refusal.retry_after = Duration::from_millis(20);
        let record = refusal.to_record(RequestId(9));
        assert_eq!(read(&record), refusal);
        assert_eq!(Records::of(&record).next().unwrap().unwrap().request_id(), RequestId(9));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let refusal = Refusal::new(ErrorCode::Invalid, 0, "€".repeat(1000));
        assert_eq!(read(&refusal.to_record(RequestId(0))).text, "€".repeat(341));
    }

    #[test]
    fn codes_of_a_later_version_keep_their_kind() {
        for (wire, code) in [(99, ErrorCode::Unavailable), (9999, ErrorCode::Invalid)] {
            let reply = ErrorReply { code: wire, ..Default::default() };
            assert_eq!(read(&encode(&reply, &[b"", b"\xff"])).code, code);
        }
    }
}
