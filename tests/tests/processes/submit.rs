//! Jobs as a user submits them: programs, inputs and lines of this machine, outputs fetched back,
//! and every mistake answered before anything is stored.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::cluster::Cluster;

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "2", "--slots", "2"];

/// Without workers: what is wrong must be told before any task could run.
const IDLE: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"];

fn write(place: &Path, name: &str, content: &str, mode: u32) {
    let path = place.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make it");
    std::fs::write(&path, content).expect("make it");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("make it");
}

/// What a task of a job printed.
#[track_caller]
fn printed(cluster: &Cluster, job: &str, task: u64) -> String {
    cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok()
}

/// Submits, waits for success, and returns the job.
#[track_caller]
fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let said = cluster.run(&[&["submit", "--wait"], arguments].concat());
    if said.exit != 0 {
        let stderr = cluster.run(&["cat", "job:last/0/stderr"]);
        panic!("{said:?}, and the first task says {stderr:?}");
    }
    said.stdout.trim().to_owned()
}

/// Runs a command with something on standard input.
#[track_caller]
fn fed(cluster: &Cluster, arguments: &[&str], text: &str) -> String {
    let mut command = cluster.command(arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run the program");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("hear from it");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it says UTF-8").trim().to_owned()
}

#[test]
fn programs_come_from_here_or_from_the_workers() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    write(
        place,
        "tools/greet",
        "#!/bin/sh\necho \"$0 says $* to $REMUDA_TASK\" | sed 's,.*/,,'\n",
        0o755,
    );
    // A program of this machine, once for each task, with the task's number.
    let job = done(&cluster, &["--array", "10-14:2", "--", "tools/greet", "task {index}", "x y"]);
    for (task, number) in [(0, 10), (1, 12), (2, 14)] {
        let said = printed(&cluster, &job, task);
        assert!(said.ends_with(&format!(" says task {number} x y to {task}\n")), "{said}");
    }
    // The workers' own, by name and by path.
    for shell in ["sh", "/bin/sh"] {
        let job = done(&cluster, &["--", shell, "-c", "echo of the worker: $A", "--env", "x"]);
        assert_eq!(printed(&cluster, &job, 0), "of the worker:\n", "{shell}");
    }
    let job = done(&cluster, &["--env", "A=some=thing", "--", "sh", "-c", "echo $A"]);
    assert_eq!(printed(&cluster, &job, 0), "some=thing\n");
    // An executable that is found here and stored.
    let job = done(&cluster, &["--upload", "--", "cat", "/proc/self/comm"]);
    assert_ne!(printed(&cluster, &job, 0), "");
    // A script from standard input travels along, a long one is stored; both get arguments.
    let script = "#!/bin/sh\necho \"script: $1\"\n";
    let long = format!("{script}# {}\n", "-".repeat(100_000));
    for script in [script, &long] {
        let job = fed(&cluster, &["submit", "--wait", "--script", "-", "--", "{index}"], script);
        assert_eq!(printed(&cluster, &job, 0), "script: 0\n");
    }
    write(place, "script", script, 0o644);
    let job = done(&cluster, &["--script", "script", "--", "a file"]);
    assert_eq!(printed(&cluster, &job, 0), "script: a file\n");
}

#[test]
fn inputs_are_seen_as_they_are_here() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    write(place, "folder/a", "in a", 0o644);
    write(place, "folder/inner/run", "#!/bin/sh\necho it runs\n", 0o755);
    std::fs::create_dir(place.join("folder/empty")).unwrap();
    symlink("a", place.join("folder/link")).unwrap();
    write(place, "single", "one file", 0o644);
    write(place, "tool", "#!/bin/sh\necho a tool\n", 0o755);
    let source = cluster.run(&["put", "folder", "stored"]).ok();
    let inner = format!("inner={}/inner", source.trim());
    let script = "cd $REMUDA_INPUTS && cat single deep/er && ./tool && ls folder folder/empty \
                  && readlink folder/link && folder/inner/run && cat named/a part inner/run";
    let job = done(
        &cluster,
        &[
            "--input",
            "single",
            "--input",
            "deep/er=single",
            "--input",
            "tool",
            "--input",
            "folder",
            "--input",
            "named=name:stored",
            "--input",
            "part=name:stored/a",
            "--input",
            &inner,
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    assert_eq!(
        printed(&cluster, &job, 0),
        "one fileone filea tool\nfolder:\na\nempty\ninner\nlink\n\nfolder/empty:\na\nit runs\n\
         in ain a#!/bin/sh\necho it runs\n"
    );
}

#[test]
fn each_line_is_a_task() {
    let cluster = Cluster::start(SMALL);
    write(cluster.place(), "lines", "first\n\nthe third, without end", 0o644);
    let job = done(&cluster, &["--each-line", "lines", "--", "echo", "[{line}]"]);
    assert_eq!(cluster.job(&job)["tasks"], 3);
    let said: Vec<String> = (0..3).map(|task| printed(&cluster, &job, task)).collect();
    assert_eq!(said, ["[first]\n", "[]\n", "[the third, without end]\n"]);
    let arguments = ["submit", "--wait", "--json", "--each-line", "-", "--", "echo", "{line}"];
    let shown = fed(&cluster, &arguments, "a\nb\n");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["tasks"], 2);
    assert_eq!(printed(&cluster, shown["job"].as_str().unwrap(), 1), "b\n");
}

#[test]
fn a_description_that_is_too_long_to_travel_is_a_file() {
    let cluster = Cluster::start(SMALL);
    write(cluster.place(), "data", "the data", 0o644);
    cluster.run(&["put", "data", "named"]).ok();
    let long = "x".repeat(10_000);
    let job = done(
        &cluster,
        &[
            "--input",
            "data",
            "--input",
            "other=name:named",
            "--env",
            "A=b",
            "--array",
            "5-6",
            "--",
            "sh",
            "-c",
            "cat $REMUDA_INPUTS/data $REMUDA_INPUTS/other; echo $A $1 ${#2}",
            "sh",
            "{index}",
            &long,
        ],
    );
    assert_eq!(printed(&cluster, &job, 1), "the datathe datab 6 10000\n");
}

#[test]
fn outputs_come_back_as_they_were_written() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    let script = "#!/bin/sh\n\
        test $REMUDA_TASK = 3 && exit 0\n\
        echo out $REMUDA_TASK; echo err $REMUDA_TASK >&2\n\
        cd $REMUDA_OUTPUTS && mkdir -p a/b empty && echo file $REMUDA_TASK > a/b/file\n\
        ln -s ../nowhere a/link; echo '#!/bin/sh' > a/run; chmod 755 a/run\n\
        head -c 9000000 /dev/zero > large\n\
        test $REMUDA_TASK != 2\n";
    write(place, "job", script, 0o755);
    let said =
        cluster.run(&["submit", "--name", "writes", "--array", "0-3", "--wait", "--", "./job"]);
    assert_eq!(said.exit, 1, "task 2 fails: {said:?}");
    cluster.run(&["get", "job:writes"]).ok();
    let mut tasks: Vec<_> = std::fs::read_dir(place.join("writes"))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    tasks.sort();
    assert_eq!(tasks, ["0", "1", "2"], "task 3 wrote nothing");
    for task in ["0", "1", "2"] {
        let folder = place.join("writes").join(task);
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("stdout"), format!("out {task}\n"));
        assert_eq!(read("stderr"), format!("err {task}\n"));
        assert_eq!(read("a/b/file"), format!("file {task}\n"));
        assert_eq!(std::fs::read_link(folder.join("a/link")).unwrap(), Path::new("../nowhere"));
        assert_eq!(std::fs::read_dir(folder.join("empty")).unwrap().count(), 0);
        let mode = std::fs::metadata(folder.join("a/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(std::fs::read(folder.join("large")).unwrap() == vec![0; 9_000_000]);
        // One task, a part of it, a file of it.
        cluster.run(&["get", &format!("job:writes/{task}"), "one"]).ok();
        assert_eq!(std::fs::read_to_string(place.join("one/a/b/file")).unwrap(), read("a/b/file"));
        std::fs::remove_dir_all(place.join("one")).unwrap();
        cluster.run(&["get", &format!("job:writes/{task}/a"), "part"]).ok();
        assert_eq!(std::fs::read_to_string(place.join("part/b/file")).unwrap(), read("a/b/file"));
        std::fs::remove_dir_all(place.join("part")).unwrap();
        for name in ["stderr", "a/b/file"] {
            let source = format!("job:writes/{task}/{name}");
            assert_eq!(cluster.run(&["cat", &source]).ok(), read(name));
            cluster.run(&["get", &source, "copy"]).ok();
            assert_eq!(std::fs::read_to_string(place.join("copy")).unwrap(), read(name));
        }
    }
    let list = cluster.run(&["ls", "job:writes", "--json"]).json();
    let tasks: Vec<u64> =
        list.as_array().unwrap().iter().map(|it| it["task"].as_u64().unwrap()).collect();
    assert_eq!(tasks, [0, 1, 2]);
    assert_eq!(
        (&list[1]["outputs"], list[1]["bytes"].as_u64() > Some(9_000_000)),
        (&7.into(), true)
    );
    let list = cluster.run(&["ls", "job:writes/1", "--json"]).json();
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a/b/file", "a/link", "a/run", "empty", "large", "stderr", "stdout"]);
    assert_eq!((&list[1]["target"], &list[4]["bytes"]), (&"../nowhere".into(), &9_000_000.into()));
    // A task that printed nothing has empty streams.
    assert_eq!(printed(&cluster, "writes", 3), "");
    for (arguments, exit, said) in [
        (&["cat", "job:writes/0"][..], 2, "is a folder"),
        (&["cat", "job:writes"], 2, "is a folder"),
        (&["cat", "job:writes/0/a"], 2, "is a folder"),
        (&["cat", "job:writes/0/a/link"], 1, "is a link to \"../nowhere\""),
        (&["cat", "job:writes/0/absent"], 1, "task 0 wrote no \"absent\""),
        (&["cat", "job:writes/4/stdout"], 1, "no task 4"),
        (&["cat", "job:absent/0/stdout"], 1, "absent"),
        (&["get", "job:writes"], 2, "exists already"),
        (&["get", "job:writes/x"], 2, "is no task"),
        (&["get", "job:writes/0/../1"], 2, "has a part . or .."),
    ] {
        let found = cluster.run(arguments);
        assert_eq!(found.exit, exit, "{arguments:?}: {found:?}");
        assert!(found.stderr.contains(said), "{said}: {found:?}");
    }
}

#[test]
fn patterns_and_limits_reach_the_workers() {
    let cluster = Cluster::start(SMALL);
    let script = "echo 1 > kept-a.txt; echo 2 > other.txt";
    let job = done(&cluster, &["--output", "kept-*.txt", "--", "sh", "-c", script]);
    let list = cluster.run(&["ls", &format!("job:{job}/0"), "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(cluster.run(&["cat", &format!("job:{job}/0/kept-a.txt")]).ok(), "1\n");
    let limited =
        ["submit", "--wait", "--time-limit", "500ms", "--cpus", "0.5", "--", "sleep", "600"];
    let said = cluster.run(&limited);
    assert_eq!(said.exit, 1, "{said:?}");
    assert_eq!(cluster.run(&["tasks", "last", "--json"]).json()[0]["cause"], "time_limit");
}

#[test]
fn what_is_there_so_far_is_said_to_be_no_more() {
    let cluster = Cluster::start(SMALL);
    let job =
        cluster.submit(&["--array", "0-1", "--", "sh", "-c", "test $REMUDA_TASK = 0 || sleep 600"]);
    let listed = cluster.run(&["ls", &format!("job:{job}")]);
    assert!(listed.stderr.starts_with("note: the job is "), "{listed:?}");
    let early = cluster.run(&["cat", &format!("job:{job}/1/stdout")]);
    assert_eq!(early.exit, 1, "{early:?}");
    assert!(early.stderr.contains("what it writes is there when it has ended"), "{early:?}");
    cluster.run(&["cancel", &job]).ok();
}

#[test]
fn what_is_seldom_meant_is_said_beside_the_job() {
    let cluster = Cluster::start(IDLE);
    for (arguments, said) in [
        (&["--", "echo", "a {line}"][..], "note: {line} stays as it is"),
        (&["--cpus", "2", "--", "true"], "note: no worker is there"),
        (&["--cpus", "0.5", "--", "true"], ""),
    ] {
        let found = cluster.run(&[&["submit"], arguments].concat());
        assert_eq!(found.exit, 0, "{found:?}");
        assert!(found.stderr.starts_with(said), "{said}: {found:?}");
        assert_eq!(found.stderr.is_empty(), said.is_empty(), "{found:?}");
    }
    let tasks = cluster.run(&["tasks"]);
    let row: Vec<&str> = tasks.stdout.lines().last().unwrap_or_default().split(' ').collect();
    let cells: Vec<&str> = row.into_iter().filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells, ["0", "1", "queued", "-", "-", "-"], "no exit code before the end");
    assert!(cluster.run(&["status"]).stdout.contains("name     -\n"), "no job was given a name");
}

/// Nothing of these may leave a job or a file behind.
#[test]
fn mistakes_are_told_before_anything_is_stored() {
    let cluster = Cluster::start(IDLE);
    let place = cluster.place();
    write(place, "data", "data", 0o644);
    write(place, "plain", "#!/bin/sh\n", 0o644);
    write(place, "text", "echo\n", 0o755);
    write(place, "empty", "", 0o644);
    let beyond = format!("0-{}", proto::limits::TASKS_PER_JOB);
    for (arguments, said) in [
        (&["--", "./absent"][..], "the program ./absent cannot be read: No such file"),
        (&["--", "./plain"], "hint: chmod +x ./plain"),
        (&["--", "./text"], "begin a script with its interpreter"),
        (&["--upload", "--", "no-such-program"], "on this machine's PATH"),
        (&["--script", "absent"], "the script absent cannot be read"),
        (&["--script", "data"], "does not begin with #!"),
        (&[], "nothing says what the tasks are"),
        (&["--input", "absent", "--", "true"], "the input absent cannot be read: No such file"),
        (&["--input", "../x=data", "--", "true"], "must be a path inside the inputs"),
        (&["--input", "a/../b=data", "--", "true"], "must be a path inside the inputs"),
        (&["--input", "a=data", "--input", "a=text", "--", "true"], "two inputs are named \"a\""),
        (&["--input", "name:..", "--", "true"], "is no name"),
        (&["--input", "x=name:data/../y", "--", "true"], "has a part . or .."),
        (&["--output", "../x", "--", "true"], "must be a path inside the scratch folder"),
        (&["--env", "REMUDA_TASK=1", "--", "true"], "is Remuda's own"),
        (&["--env", "A", "--", "true"], "--env A=VALUE"),
        (&["--array", "5-4", "--", "true"], "it is empty"),
        (&["--array", &beyond, "--", "true"], "a job has at most 4294967296 tasks"),
        (&["--each-line", "empty", "--", "true"], "there would be no task"),
        (&["--each-line", "absent", "--", "true"], "absent cannot be read"),
        (&["--each-line", "data", "--array", "0-1", "--", "true"], "cannot be used with"),
        (&["--cpus", "0", "--", "true"], "a thousandth of a CPU"),
        (&["--mem", "lots", "--", "true"], "a size is wanted"),
        (&["--time-limit", "90", "--", "true"], "a duration with its units is wanted"),
        (&["--noop", "--", "true"], "cannot be used with"),
    ] {
        let found = cluster.run(&[&["submit"], arguments].concat());
        assert_eq!((found.exit, &*found.stdout), (2, ""), "{arguments:?}: {found:?}");
        assert!(found.stderr.contains(said), "{said}: {found:?}");
    }
    // What only the cluster knows.
    let found = cluster.run(&["submit", "--input", "name:absent", "--", "true"]);
    assert_ne!(found.exit, 0, "{found:?}");
    assert!(found.stderr.contains("absent"), "{found:?}");
    assert_eq!(cluster.run(&["jobs", "--json"]).json(), serde_json::json!([]));
    // The same job again is the same job; another one under its UUID is refused.
    let again = ["--input", "data", "--", "true"];
    let job = cluster.submit(&again);
    assert_eq!(cluster.submit(&[&["--job", &job], &again[..]].concat()), job);
    let other = cluster.run(&["submit", "--job", &job, "--input", "data=text", "--", "true"]);
    assert_eq!(other.exit, 2, "{other:?}");
    assert!(other.stderr.contains("exists with another content"), "{other:?}");
    assert_eq!(cluster.run(&["jobs", "--json"]).json().as_array().unwrap().len(), 1);
}
