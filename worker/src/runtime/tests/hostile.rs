//! Tasks that turn against what watches them: their helper, and whoever waits for their end.

use super::*;
use crate::spawn::TaskUser;

/// Waits for the end of a task that could hold its slot for ever.
fn joined(thread: JoinHandle<TaskEnd>) -> TaskEnd {
    let clock = Clock::start();
    let until = clock.now() + Duration::from_secs(60);
    while !thread.is_finished() {
        assert!(clock.now() < until, "the task holds its slot");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    thread.join().unwrap()
}

#[test]
fn a_task_that_stops_its_helper_does_not_keep_its_slot() {
    let Bench { data, spawner } = Bench::new();
    let bench = Bench { data, spawner: spawner.with_patience(Duration::from_millis(300)) };
    let marker = bench.file("marker");
    let script = format!(
        "echo $$ > {}; while kill -STOP $PPID; do sleep 0.01; done; exec sleep 3600",
        marker.display()
    );
    let (cancel, thread) = bench.start(shell(&script));
    let pid = line_of(&marker);
    let helper = bench.spawner.helper().unwrap();
    cancel.cancel();
    // The helper may have heard of it between two stops.
    let (state, _, cause) = how(&joined(thread));
    assert_eq!(state, TaskState::Lost);
    assert!(matches!(cause, Cause::CutOff | Cause::Cancelled), "{cause:?}");
    expect_end(&pid);
    if cause == Cause::CutOff {
        expect_end(&helper.to_string());
    }
    assert_eq!(how(&bench.execute(&shell("exit 3"), 1)), (TaskState::Failed, 3, Cause::None));
}

#[test]
fn a_helper_that_was_stopped_without_a_task_starts_the_next_one() {
    let bench = Bench::new();
    assert_eq!(how(&bench.execute(&shell("exit 0"), 0)), (TaskState::Done, 0, Cause::None));
    let helper = bench.spawner.helper().unwrap();
    kill_process(helper, Signal::STOP).unwrap();
    // It has no time limit: without help it would hold its slot for ever.
    let (_cancel, thread) = bench.start(shell("exit 0"));
    assert_eq!(how(&joined(thread)), (TaskState::Done, 0, Cause::None));
    assert_eq!(bench.spawner.helper(), Some(helper), "the same one");
}

#[test]
fn a_helper_that_is_stopped_again_and_again_is_done_without() {
    let bench = Bench::new();
    let (_cancel, thread) =
        bench.start(shell("while kill -STOP $PPID; do sleep 0.01; done; exec sleep 3600"));
    assert_eq!(how(&joined(thread)), (TaskState::Lost, 0, Cause::CutOff));
    assert_eq!(how(&bench.execute(&shell("exit 3"), 1)), (TaskState::Failed, 3, Cause::None));
}

#[test]
fn a_task_that_is_traced_by_what_it_started_can_be_cancelled() {
    let bench = Bench::new();
    let marker = bench.file("marker");
    // PTRACE_SEIZE, which stops nothing.
    let perl = format!(
        "my $is_ours = syscall({}, 0x4206, $ARGV[0] + 0, 0, 0) == 0; \
         open F, '>', $ARGV[1]; print F qq($$ $is_ours\\n); close F; sleep",
        libc::SYS_ptrace
    );
    let script = "setsid perl -e \"$1\" $$ \"$2\" & wait";
    let spec = named("sh", &["-c", script, "sh", &perl, marker.to_str().unwrap()]);
    let (cancel, thread) = bench.start(spec);
    let told = line_of(&marker);
    if !told.ends_with(" 1") {
        eprintln!("skipped: a process may not trace its parent here");
    }
    cancel.cancel();
    assert_eq!(how(&joined(thread)), (TaskState::Lost, -9, Cause::Cancelled));
    expect_end(told.split(' ').next().unwrap());
}

#[test]
fn a_task_cannot_look_into_its_helper() {
    let data = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let user = is_root.then_some(TaskUser { uid: 65_534, gid: 65_534 });
    let program = HelperProgram { program: "/proc/self/exe".into(), user, ..helper_program() };
    let spawner = Spawner::open(data.path(), program).unwrap();
    let bench = Bench { data, spawner };
    let script = "cat /proc/$$/environ > /dev/null || exit 4; \
                  if cat /proc/$PPID/environ > /dev/null; then exit 5; fi";
    assert_eq!(how(&bench.execute(&shell(script), 0)), (TaskState::Done, 0, Cause::None));
}
