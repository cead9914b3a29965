//! The script of `make demo` on a small folder, with the program that is tested.

use std::process::{Command, Stdio};

use crate::cluster::{Cluster, program};
use crate::foreign::repository;

/// Few enough for `make test`, and long enough that four processes can be killed amid them.
const TASKS: (&str, &str) = ("96", "0.9");

#[test]
fn the_demo_comes_to_what_a_plain_script_comes_to() {
    let home = Cluster::home();
    let place = home.place();
    let (sources, room) = (place.join("sources"), place.join("room"));
    std::fs::create_dir(&room).unwrap();
    let mut copy = Command::new("cp");
    assert!(copy.arg("-a").arg(repository("tests")).arg(&sources).status().unwrap().success());
    let output = Command::new(repository("scripts/demo"))
        .env("DEMO_PROGRAM", program())
        .env("DEMO_SOURCES", &sources)
        .env("DEMO_ROOM", &room)
        .env("DEMO_TASKS", TASKS.0)
        .env("DEMO_PAUSE", TASKS.1)
        .env("XDG_RUNTIME_DIR", place.join("run"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    for what in [
        "killed the leading master",
        "killed the primary balancer",
        "killed a storage node",
        "killed a worker",
        "equal to the plain script",
        "dealt under epochs",
        "nothing is left behind",
    ] {
        assert!(said.contains(what), "no {what:?} in:\n{said}\n{complaints}");
    }
    assert_eq!(std::fs::read_dir(&room).unwrap().count(), 0, "it leaves nothing behind");
}
