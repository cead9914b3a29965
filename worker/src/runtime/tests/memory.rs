//! Memory limits that the kernel enforces. Where this process may make no cgroups there is nothing
//! to try; limits that are measured instead are tried beside the other limits.

use proto::ids::NodeId;

use super::*;
use crate::cgroup::Cgroups;
use crate::spawn::TaskUser;

const LIMIT: u64 = 64 << 20;

/// Keeps all of it, because no line ends, and that within less than the time of one sample.
const GREEDY: &str = "head -c 600M /dev/zero | tail";

const NOBODY: TaskUser = TaskUser { uid: 65_534, gid: 65_534 };

/// `None` where there are no cgroups to be had.
fn limited(user: Option<TaskUser>) -> Option<(Bench, Cgroups)> {
    let cgroups = Cgroups::open(NodeId::from_random(fastrand::u128(..)));
    if cgroups.way() == "measured" {
        eprintln!("skipped: this process may not make cgroups with a memory limit");
        return None;
    }
    let data = tempfile::tempdir().unwrap();
    // What the other user may come to as well.
    let program = HelperProgram { program: "/proc/self/exe".into(), user, ..helper_program() };
    let spawner = Spawner::open(data.path(), program).unwrap().with_cgroups(cgroups.clone());
    Some((Bench { data, spawner }, cgroups))
}

fn of_limit(script: &str) -> JobSpec {
    let mut spec = shell(script);
    spec.description.memory_bytes = LIMIT;
    spec
}

#[test]
fn what_allocates_fast_does_not_come_beyond_its_limit() {
    let other = rustix::process::geteuid().is_root().then_some(NOBODY);
    for user in [None].into_iter().chain(other.map(Some)) {
        let Some((bench, cgroups)) = limited(user) else { return };
        let end = bench.execute(&of_limit(GREEDY), 0);
        assert_eq!(how(&end), (TaskState::Failed, -9, Cause::MemoryLimit), "{user:?}");
        assert!((LIMIT / 2..100 << 20).contains(&end.peak_memory_bytes), "{end:?}");
        assert!(cgroups.made().is_empty());
    }
}

#[test]
fn a_task_whose_child_reached_the_limit_does_not_go_on() {
    let Some((bench, _cgroups)) = limited(None) else { return };
    let wanted = (TaskState::Failed, -9, Cause::MemoryLimit);
    let went_on = bench.file("went_on");
    let script = format!("{GREEDY}; sleep 60; touch {}", went_on.display());
    assert_eq!(how(&bench.execute(&of_limit(&script), 0)), wanted);
    assert!(!went_on.exists());
    // Nor does it pass for done, where it ends before somebody looks.
    assert_eq!(how(&bench.execute(&of_limit(&format!("{GREEDY}; exit 0")), 1)), wanted);
}

#[test]
fn what_stays_below_its_limit_is_left_alone() {
    let Some((bench, cgroups)) = limited(None) else { return };
    let end = bench.execute(&of_limit("head -c 30M /dev/zero | tail | wc -c"), 0);
    assert_eq!(how(&end), (TaskState::Done, 0, Cause::None));
    assert!((30 << 20..LIMIT).contains(&end.peak_memory_bytes), "{end:?}");
    assert_eq!(fs::read_to_string(bench.kept(0).join("stdout")).unwrap(), "31457280\n");
    // A limit does not change why it ended.
    let killed = bench.execute(&of_limit("kill -KILL $$"), 1);
    assert_eq!(how(&killed), (TaskState::Failed, -9, Cause::Signal));
    let mut spec = of_limit("true");
    spec.description.runtime = named("/no/such/program", &[]).description.runtime;
    let (state, _, cause) = how(&bench.execute(&spec, 2));
    assert_eq!((state, cause), (TaskState::Failed, Cause::NotStarted));
    assert!(cgroups.made().is_empty());
}

#[test]
fn a_process_that_left_its_group_and_its_environment_ends_with_its_task() {
    let Some((bench, cgroups)) = limited(None) else { return };
    let child = bench.file("child");
    let script = format!(
        "setsid env -i /bin/sh -c 'echo $$ > {child}; exec sleep 3600' & \
         while ! [ -s {child} ]; do sleep 0.01; done",
        child = child.display()
    );
    assert_eq!(how(&bench.execute(&of_limit(&script), 0)), (TaskState::Done, 0, Cause::None));
    expect_end(&line_of(&child));
    assert!(cgroups.made().is_empty());
}
