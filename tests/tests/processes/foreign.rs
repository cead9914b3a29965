//! Programs that use nothing of ours talk to a real cluster: a C program compiled against the
//! generated header and a Python script with pyzmq and `struct` submit a job and fetch a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster_tests::wait::until;
use proto::description::{JobDescription, Noop, Runtime};
use proto::time::Duration;

use crate::cluster::Cluster;

/// A path in this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join(path)
}

/// Lets a program submit a job and fetch a file; compares what came of both.
fn check(cluster: &Cluster, program: &mut Command, job: &str) {
    let content = b"what a file says\nand goes on to say\n";
    let file = cluster.place().join("file");
    std::fs::write(&file, content).expect("write a file");
    let put = cluster.run(&["put", file.to_str().expect("a path in UTF-8")]).ok();
    let uuid =
        put.trim().strip_prefix("file:").expect("it says where the file is").replace('-', "");
    let description = JobDescription::new(Runtime::Noop(Noop::default())).encode().expect("short");
    let description: String = description.iter().map(|byte| format!("{byte:02x}")).collect();
    let address = |tier: &str| cluster.tier(tier).remove(0).address;
    program.args([&address("master"), &address("storage"), job, "1000", &description, &uuid]);
    // A storage node hears of those that joined after it within a second, and does not look for the
    // file there before. Submitting the same job again changes nothing.
    let output = until("the program succeeds", Duration::from_secs(20), || {
        let output = program.output().expect("it starts");
        eprintln!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        output.status.success().then_some(output)
    });
    assert_eq!(output.stdout, [b"accepted\n".as_slice(), content].concat());
    cluster.run(&["wait", job]).ok();
    assert_eq!(cluster.job(job)["done"], 1_000);
}

#[test]
fn a_c_program_and_a_python_script_submit_a_job_and_fetch_a_file() {
    let cluster = Cluster::start(&["--masters", "1", "--balancers", "1", "--workers", "1"]);
    let program = cluster.place().join("client");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(repository("proto/include"))
        .arg("-o")
        .arg(&program)
        .arg(repository("tests/c/client.c"))
        .arg("-lzmq")
        .output()
        .expect("there is a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    check(&cluster, &mut Command::new(&program), "c0000000000040008000000000000001");

    // `make setup` makes the environment that has pyzmq.
    let python = repository(".venv/bin/python3");
    assert!(python.is_file(), "{} is missing: run `make setup`", python.display());
    let mut script = Command::new(python);
    script.arg(repository("tests/python/client.py"));
    check(&cluster, &mut script, "d0000000000040008000000000000001");
}
