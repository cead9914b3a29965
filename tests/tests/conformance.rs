//! Programs that use nothing of ours agree about the wire: a C program against the generated
//! header and a Python script with `struct` read and write the golden bytes.
//!
//! Whether they can talk to a cluster is a matter of the tests of processes.

use std::path::{Path, PathBuf};
use std::process::Command;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join(path)
}

/// Runs a program to its end and returns what it printed; fails with what it complained about.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// The golden file with one bit of the last record's bytes changed, which must be noticed.
fn spoilt(name: &str) -> PathBuf {
    let text = std::fs::read_to_string(repository("proto/tests/golden.txt")).expect("golden bytes");
    let text = text.trim_end();
    let (text, last) = text.split_at(text.len() - 1);
    let last = if last == "0" { "1" } else { "0" };
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, format!("{text}{last}\n")).expect("write the spoilt file");
    path
}

#[test]
fn a_c_program_agrees_about_the_golden_bytes() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("golden");
    run(Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(repository("proto/include"))
        .arg("-o")
        .arg(&program)
        .arg(repository("tests/c/golden.c")));
    let golden = repository("proto/tests/golden.txt");
    assert_eq!(run(Command::new(&program).arg(golden)), "5 records\n");
    let refused = Command::new(&program).arg(spoilt("spoilt-c.txt")).output().expect("it starts");
    assert_eq!(refused.status.code(), Some(1), "spoilt bytes are noticed");
}

#[test]
fn a_python_script_agrees_about_the_golden_bytes() {
    let script = repository("tests/python/golden.py");
    let python = |golden: PathBuf| {
        let mut command = Command::new("python3");
        command.arg(&script).arg(golden);
        command
    };
    let golden = repository("proto/tests/golden.txt");
    assert_eq!(run(&mut python(golden)), "5 records\n");
    let refused = python(spoilt("spoilt-python.txt")).output().expect("it starts");
    assert_eq!(refused.status.code(), Some(1), "spoilt bytes are noticed");
}
