//! What a segment must be, and that damaged bytes are refused.

use proptest::prelude::*;

use super::*;
use crate::ids::TaskIndex;

fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
    AccountingEntry { task_index, attempt, wall_us: task_index ^ 7, ..Default::default() }
}

fn printed(bytes: &[u8]) -> Output {
    Output {
        kind: OutputKind::Stdout,
        name: Vec::new(),
        mode: 0,
        is_cut: false,
        content: OutputContent::Packed(bytes.to_vec()),
    }
}

fn stored(name: &str, file: FileId) -> Output {
    Output {
        kind: OutputKind::File,
        name: name.into(),
        mode: 0o755,
        is_cut: true,
        content: OutputContent::File { file, length: 1 << 40 },
    }
}

type Owned = (JobId, Vec<AccountingEntry>, Vec<TaskOutputs>);

fn sections() -> Vec<Owned> {
    let outputs = vec![
        TaskOutputs {
            task_index: 3,
            attempt: 9,
            outputs: vec![printed(b"three"), stored("a/b", FileId(77))],
        },
        TaskOutputs { task_index: 70, attempt: 8, outputs: vec![printed(b"")] },
    ];
    vec![
        (JobId(5), (0..10).map(|task| entry(task, 1)).collect(), Vec::new()),
        (JobId(2), vec![entry(3, 9), entry(70, 8)], outputs),
    ]
}

fn encoded(sections: &[Owned]) -> Vec<u8> {
    let sections: Vec<NewSection<'_>> = sections
        .iter()
        .map(|(job, entries, outputs)| NewSection { job: *job, entries, outputs })
        .collect();
    encode(&sections)
}

/// What was written, from what is read.
fn owned(section: &Section<'_>) -> Owned {
    let mut outputs: Vec<TaskOutputs> = Vec::new();
    for output in section.outputs() {
        let content = match output.content {
            Ok(bytes) => OutputContent::Packed(bytes.to_vec()),
            Err(file) => OutputContent::File { file, length: output.length },
        };
        let read = Output {
            kind: output.kind,
            name: output.name.to_vec(),
            mode: output.mode,
            is_cut: output.is_cut,
            content,
        };
        let key = (output.task.0, output.attempt);
        match outputs.last_mut() {
            Some(last) if (last.task_index, last.attempt) == key => last.outputs.push(read),
            _ => {
                let (task_index, attempt) = key;
                outputs.push(TaskOutputs { task_index, attempt, outputs: vec![read] });
            }
        }
    }
    (section.job, section.entries.to_vec(), outputs)
}

#[test]
fn one_jobs_section_is_read_without_the_rest() {
    let bytes = encoded(&sections());
    let length = bytes.len() as u64;
    let index = read_tail(&bytes[bytes.len() - TAIL_BYTES..], length).unwrap();
    let at = index.start;
    let named = read_index(&bytes[index.start as usize..index.end as usize], at).unwrap();
    let section = named.iter().find(|section| section.job_uuid == JobId(2).to_wire()).unwrap();
    assert_eq!(({ section.first_task }, { section.last_task }), (3, 70));
    let range = section.bytes().unwrap();
    let section = section.read(&bytes[range.start as usize..range.end as usize]).unwrap();
    assert_eq!(section.entries, [entry(3, 9), entry(70, 8)]);
    let of_three: Vec<OutputRef<'_>> = section.outputs_of(TaskIndex(3)).collect();
    assert_eq!(of_three.len(), 2);
    assert_eq!(of_three[0].content, Ok(b"three".as_slice()));
    assert_eq!((of_three[1].name, of_three[1].content), (b"a/b".as_slice(), Err(FileId(77))));
    assert_eq!((of_three[1].length, of_three[1].mode, of_three[1].is_cut), (1 << 40, 0o755, true));
    assert_eq!(section.outputs_of(TaskIndex(4)).count(), 0);
    assert_eq!(section.outputs_of(TaskIndex(70)).count(), 1);
}

#[test]
fn another_version_is_no_segment() {
    let mut bytes = encoded(&sections());
    bytes[7] = 2;
    assert_eq!(Segment::open(&bytes).unwrap_err(), SegmentError::NotASegment);
    assert_eq!(Segment::open(&[]).unwrap_err(), SegmentError::NotASegment);
    assert!(Segment::open(&encode(&[])).unwrap().sections().is_empty());
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    for name in ["..", "a/../b", "/etc/passwd", "a//b", "", ".", "a/", "a\0b"] {
        let outputs =
            vec![TaskOutputs { task_index: 3, attempt: 9, outputs: vec![stored(name, FileId(1))] }];
        let bytes = encoded(&[(JobId(2), vec![entry(3, 9)], outputs)]);
        assert_eq!(
            Segment::open(&bytes).unwrap_err(),
            SegmentError::Section { position: 0 },
            "{name:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        counts in prop::collection::vec(
            (any::<u128>(), prop::collection::btree_map(
                any::<u64>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 1..40,
            )),
            0..6,
        ),
    ) {
        let written: Vec<Owned> = counts
            .into_iter()
            .map(|(job, tasks)| {
                let entries = tasks.keys().map(|&task| entry(task, 3)).collect();
                let outputs = tasks.iter().filter_map(|(&task_index, printed_bytes)| {
                    let outputs = vec![printed(printed_bytes.as_ref()?), stored("x", FileId(9))];
                    Some(TaskOutputs { task_index, attempt: 3, outputs })
                });
                (JobId(job), entries, outputs.collect())
            })
            .collect();
        let bytes = encoded(&written);
        let read: Vec<Owned> = Segment::open(&bytes).unwrap().sections().iter().map(owned).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn damaged_bytes_never_panic_and_cut_ones_are_refused(
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encoded(&sections());
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= flip;
        if let Ok(segment) = Segment::open(&damaged) {
            prop_assert_eq!(segment.sections().len(), 2);
            segment.sections().iter().for_each(|section| drop(owned(section)));
        }
        prop_assert!(Segment::open(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
