//! `explain_reply` as values: what a node of any tier says of why tasks are where they are.
//!
//! Responsible for the record and its bounds. Which reasons hold is each tier's matter, and the
//! words that people read are those of whoever asks.

use std::fmt;

use proto::ids::{LogIndex, NodeId};
use proto::limits;
use proto::messages::job::{ExplainReply, Explanation};
use proto::record::encode;
use proto::status::Reason;
use proto::wire::bytes_of;

/// Explanations of one reply.
const EXPLANATIONS: usize = 64;

/// Why some tasks of a job are where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Why.
    pub reason: Reason,
    /// The first of the tasks.
    pub first_task: u64,
    /// Number of the tasks.
    pub task_count: u64,
    /// The node that the reason speaks of; nil for none.
    pub subject: NodeId,
    /// What it counts is the reason's matter.
    pub number: u64,
    /// What is said beside; cut at [`limits::ERROR_TEXT_BYTES`].
    pub text: String,
}

impl Why {
    /// A reason for `task_count` tasks from `first_task` on, with nothing beside.
    #[must_use]
    pub fn new(reason: Reason, first_task: u64, task_count: u64) -> Why {
        let (subject, number, text) = (NodeId(0), 0, String::new());
        Why { reason, first_task, task_count, subject, number, text }
    }
}

/// The record, without its request id; what is beyond its bounds is left out.
#[must_use]
pub fn explain_reply(index: LogIndex, group: u64, whys: &[Why]) -> Vec<u8> {
    let mut texts = String::new();
    let mut explanations = Vec::with_capacity(whys.len().min(EXPLANATIONS));
    for why in whys.iter().take(EXPLANATIONS) {
        let text = &why.text[..why.text.floor_char_boundary(limits::ERROR_TEXT_BYTES)];
        texts.push_str(text);
        explanations.push(Explanation {
            reason: why.reason.to_wire(),
            first_task: why.first_task,
            task_count: why.task_count,
            subject_uuid: why.subject.to_wire(),
            number: why.number,
            // Shorter than the bound that it was cut at.
            text_length: u32::try_from(text.len()).unwrap_or(0),
        });
    }
    let reply = ExplainReply { index: index.0, group, ..ExplainReply::default() };
    encode(&reply, &[bytes_of(&explanations), texts.as_bytes()])
}

/// What a machine offers its tasks, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = self.cpu_milli as f64 / 1_000.0;
        let unit = if self.cpu_milli == 1_000 { "CPU" } else { "CPUs" };
        let gib = self.memory_bytes as f64 / (1u64 << 30) as f64;
        write!(f, "{cpus} {unit} and {gib:.1} GiB of memory")
    }
}

#[cfg(test)]
mod tests {
    use proto::record::Records;
    use proto::wire::items_of;

    use super::*;

    #[test]
    fn a_reply_stays_within_its_bounds() {
        let long =
            Why { text: "ä".repeat(limits::ERROR_TEXT_BYTES), ..Why::new(Reason::Next, 3, 1) };
        let bytes = explain_reply(LogIndex(9), 1, &vec![long; 100]);
        let record = Records::of(&bytes).next().unwrap().unwrap();
        let (reply, [items, texts]) = record.open::<ExplainReply, 2>().unwrap();
        let items = items_of::<Explanation>(items).unwrap();
        assert_eq!(({ reply.index }, items.len()), (9, EXPLANATIONS));
        let told: u32 = items.iter().map(|item| item.text_length).sum();
        assert_eq!(told as usize, texts.len());
        assert!(std::str::from_utf8(texts).is_ok());
    }

    #[test]
    fn room_is_told_in_words() {
        let room = Room { cpu_milli: 2_500, memory_bytes: 8 << 30 };
        assert_eq!(room.to_string(), "2.5 CPUs and 8.0 GiB of memory");
        let small = Room { cpu_milli: 1_000, memory_bytes: 1 << 29 };
        assert_eq!(small.to_string(), "1 CPU and 0.5 GiB of memory");
    }
}
