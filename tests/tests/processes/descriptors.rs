//! How many descriptors daemons may have open, and what is left of that for tasks.

use std::process::Command;

use crate::cluster::{Cluster, Said, program};

/// The soft limit that the cluster is started with: less than a worker of these slots needs.
const SOFT_LIMIT: u64 = 200;

const SHAPE: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "24"];

/// Soft and hard limit of a process.
fn limits(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let mut numbers = line.split_whitespace().skip(3);
    // Without a limit it is a word.
    let mut next = || numbers.next().and_then(|it| it.parse().ok()).unwrap_or(u64::MAX);
    (next(), next())
}

#[test]
fn daemons_take_the_hard_limit_and_tasks_have_the_soft_one() {
    let cluster = Cluster::home();
    let script = format!("ulimit -Sn {SOFT_LIMIT} && exec \"$0\" dev --detach \"$@\"");
    let mut dev = Command::new("sh");
    dev.args(["-c", &script]).arg(program()).args(SHAPE).current_dir(cluster.place());
    for (name, value) in cluster.command(&[]).get_envs() {
        match value {
            Some(value) => dev.env(name, value),
            None => dev.env_remove(name),
        };
    }
    Said::of(dev.output().expect("run a shell")).ok();
    for it in cluster.status() {
        let (soft, hard) = limits(it.pid.expect("it runs"));
        assert_eq!(soft, hard.min(1 << 20), "{}", it.name);
    }
    // All slots have a process at the same time.
    let script = "touch $PLACE/$REMUDA_TASK
                  until test $(ls $PLACE | wc -l) = 24; do sleep 0.1; done
                  ulimit -Sn; ulimit -Hn";
    let told = cluster.place().join("told");
    std::fs::create_dir(&told).unwrap();
    let place = format!("PLACE={}", told.display());
    let submit = ["--array", "0-23", "--wait", "--env", &place, "--", "sh", "-c", script];
    let job = cluster.submit(&submit);
    let (_, hard) = limits(std::process::id());
    let hard = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
    for task in [0, 23] {
        let said = cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok();
        assert_eq!(said, format!("{SOFT_LIMIT}\n{hard}\n"));
    }
}
