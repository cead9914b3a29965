//! The enumerations of the protocol as plain tables for the generators.

use proto::status::{
    AuxiliaryState, BlockKind, Cause, ErrorCode, FeedKind, JobChangeKind, JobState, OfferState,
    Order, OutputKind, ProgramKind, Reason, RingAction, RingState, Role, TaskState, Verdict,
};

/// One enumeration.
pub(crate) struct Enumeration {
    /// Its name in C.
    pub(crate) name: &'static str,
    /// What the protocol's fields call it: "the list of …".
    pub(crate) list: &'static str,
    /// Number, name and meaning of each value.
    pub(crate) values: Vec<(u16, &'static str, &'static str)>,
}

macro_rules! enumerations {
    ($($type:ident $name:literal $list:literal;)*) => {
        /// Every enumeration of `status.rs`.
        pub(crate) fn enumerations() -> Vec<Enumeration> {
            vec![$(Enumeration {
                name: $name,
                list: $list,
                values: $type::ALL
                    .iter()
                    .map(|(value, name, meaning)| (value.to_wire().into(), *name, *meaning))
                    .collect(),
            },)*]
        }

        const LISTED: &[&str] = &[$(stringify!($type),)*];
    };
}

enumerations! {
    Role "role" "roles";
    ErrorCode "error_code" "error codes";
    TaskState "task_state" "task states";
    JobState "job_state" "job states";
    Cause "cause" "causes";
    ProgramKind "program_kind" "program kinds";
    OutputKind "output_kind" "output kinds";
    Verdict "verdict" "verdicts";
    Order "order" "orders";
    FeedKind "feed_kind" "feed kinds";
    JobChangeKind "job_change_kind" "job changes";
    AuxiliaryState "auxiliary_state" "auxiliary states";
    Reason "reason" "reasons";
    BlockKind "block_kind" "block kinds";
    RingAction "ring_action" "ring actions";
    RingState "ring_state" "ring states";
    OfferState "offer_state" "offer states";
}

#[test]
fn every_enumeration_is_listed() {
    let source = include_str!("../../src/status.rs");
    let declared = source.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("    ")?.split_once(": u")?;
        (rest.ends_with('{') && name.chars().all(char::is_alphanumeric)).then_some(name)
    });
    let declared: Vec<&str> = declared.collect();
    assert_eq!(declared, LISTED, "the table above must list the enumerations of status.rs");
}
