//! What a node's network has done and refused, as plain numbers for metrics and tests.

use proto::record::RecordError;

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub frames_received: u64,
    /// Records delivered to the logic.
    pub records_delivered: u64,
    /// Frames handed out for sending.
    pub frames_sent: u64,
    /// Records queued for sending, those of the sessions themselves included.
    pub records_queued: u64,
    /// Malformed records, by what is wrong with them.
    pub malformed: Malformed,
    /// Records left unread behind too many malformed ones of their frame (counted as one each
    /// time).
    pub abandoned_frames: u64,
    /// Records of an earlier connection, dropped.
    pub old_generation: u64,
    /// Records whose sequence number had been seen, dropped.
    pub repeated: u64,
    /// Sequence numbers that never came: lost at a disconnect or at the high-water mark.
    pub missing: u64,
    /// Records of a peer that has not said `hello`.
    pub without_hello: u64,
    /// Records that claim another node than the `hello` of their connection.
    pub other_node: u64,
    /// `hello`s refused by this node.
    pub hellos_refused: u64,
    /// Records dropped because the peer's queue was full.
    pub overflowed: u64,
    /// Records and frames dropped because their peer is gone.
    pub unroutable: u64,
    /// Peers forgotten because there were too many.
    pub forgotten: u64,
}

impl Counters {
    /// Counts a gap, whose length is whatever the peer's numbers claim.
    pub(super) fn note_missing(&mut self, missing: u64) {
        self.missing = self.missing.saturating_add(missing);
    }
}

/// Malformed records by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Malformed {
    /// Fewer bytes than a generic message.
    pub too_short: u64,
    /// A `header_length` that the type never had.
    pub header_length: u64,
    /// Longer than the frame.
    pub truncated: u64,
    /// Longer than the limit.
    pub too_long: u64,
    /// A type that this version does not know.
    pub unknown_type: u64,
    /// A variable part or a value that does not fit.
    pub content: u64,
}

impl Malformed {
    /// Counts one.
    pub(super) fn count(&mut self, error: RecordError) {
        let counter = match error {
            RecordError::TooShort { .. } => &mut self.too_short,
            RecordError::HeaderLength { .. } => &mut self.header_length,
            RecordError::Truncated { .. } => &mut self.truncated,
            RecordError::TooLong { .. } => &mut self.too_long,
            RecordError::UnknownType { .. } => &mut self.unknown_type,
            RecordError::OtherType { .. }
            | RecordError::Part { .. }
            | RecordError::Value { .. } => &mut self.content,
        };
        *counter += 1;
    }

    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.too_short
            + self.header_length
            + self.truncated
            + self.too_long
            + self.unknown_type
            + self.content
    }
}
