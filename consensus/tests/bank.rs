//! The bank example as a test: real processes, disks and sockets, with kills.

use std::path::PathBuf;
use std::process::Command;

/// Examples lie in a folder beside that of the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent()
        .and_then(|deps| deps.parent())
        .expect("a test lies in a folder")
        .join("examples")
        .join("bank")
}

#[test]
fn no_money_is_made_or_lost_under_kills() {
    let output = Command::new("timeout")
        .arg("120")
        .arg(example())
        .args(["--seconds", "4", "--kills", "2"])
        .output()
        .expect("cargo test builds the examples unless it is told to build one test only");
    let (told, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{wrong}");
}
