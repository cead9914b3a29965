//! What tasks write and what is kept of it, where no storage is needed.

use std::os::unix::fs::symlink;

use proto::limits::OUTPUTS_PER_TASK;
use proto::segment::OutputContent;
use proto::status::OutputKind;

use super::*;

/// Kind, name, mode and content of everything.
fn kept(end: &TaskEnd) -> Vec<(OutputKind, String, u16, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |output: &Output| {
        let OutputContent::Packed(bytes) = &output.content else { panic!("{output:?} is stored") };
        (output.kind, text(&output.name), output.mode, text(bytes))
    };
    end.outputs.iter().map(one).collect()
}

fn stderr(end: &TaskEnd) -> String {
    let kept = kept(end).into_iter();
    kept.filter(|(kind, ..)| *kind == OutputKind::Stderr).map(|(.., text)| text).collect()
}

fn names(end: &TaskEnd) -> Vec<String> {
    kept(end).into_iter().map(|(_, name, ..)| name).collect()
}

#[test]
fn everything_that_a_task_wrote_is_kept_and_nothing_else() {
    let bench = Bench::new();
    let end = bench.execute(&shell("exit 0"), 0);
    assert!(end.outputs.is_empty(), "an empty stream is no output");
    let script = "umask 022; echo out; echo err >&2; echo scratch > left; cd $REMUDA_OUTPUTS; \
                  printf 1 > b; printf 2 > a; chmod 750 a; mkdir -p d/e empty d/closed; \
                  printf 3 > d/e/f; : > none; ln -s ../../outside link; ln -s d folder-link; \
                  chmod 500 d/closed; exit 4";
    let end = bench.execute(&shell(script), 0);
    assert_eq!(how(&end), (TaskState::Failed, 4, Cause::None), "what failed is kept as well");
    let wanted = [
        (OutputKind::Stdout, "", 0, "out\n"),
        (OutputKind::Stderr, "", 0, "err\n"),
        (OutputKind::File, "a", 0o750, "2"),
        (OutputKind::File, "b", 0o644, "1"),
        (OutputKind::Folder, "d/closed", 0o500, ""),
        (OutputKind::File, "d/e/f", 0o644, "3"),
        (OutputKind::Folder, "empty", 0o755, ""),
        (OutputKind::Link, "folder-link", 0o777, "d"),
        (OutputKind::Link, "link", 0o777, "../../outside"),
        (OutputKind::File, "none", 0o644, ""),
    ];
    let wanted = wanted.map(|(kind, name, mode, text)| (kind, name.into(), mode, text.into()));
    assert_eq!(kept(&end), wanted);
    let end = bench.execute(&shell("rmdir $REMUDA_OUTPUTS"), 0);
    assert_eq!((how(&end).0, end.outputs.len()), (TaskState::Done, 0));
}

#[test]
fn patterns_choose_files_of_the_scratch_folder() {
    let bench = Bench::new();
    let script = "mkdir -p results/deep .git sub; touch a.txt b.txt c.log .hidden.txt; \
                  touch results/deep/x .git/y.txt sub/z.txt outputs/own.txt; ln -s a.txt l.txt; \
                  mkfifo pipe";
    let mut spec = shell(script);
    spec.description.outputs = vec!["*.txt".into(), "results".into(), "outputs/*.txt".into()];
    let end = bench.execute(&spec, 0);
    assert_eq!(how(&end), (TaskState::Done, 0, Cause::None));
    assert_eq!(names(&end), ["a.txt", "b.txt", "l.txt", "own.txt", "results/deep/x"]);
    spec.description.outputs = vec!["**/*.txt".into(), "no*thing".into()];
    let end = bench.execute(&spec, 0);
    assert_eq!(how(&end), (TaskState::Done, 0, Cause::None), "it may mean nothing");
    assert_eq!(names(&end), ["", "a.txt", "b.txt", "l.txt", "own.txt", "sub/z.txt"]);
    assert_eq!(stderr(&end), "remuda: nothing in the scratch folder matches --output no*thing\n");
}

#[test]
fn outputs_that_cannot_be_kept_fail_the_task_with_a_reason() {
    let bench = Bench::new();
    let many = format!("cd $REMUDA_OUTPUTS; seq {} | xargs touch", OUTPUTS_PER_TASK + 1);
    for (script, reason) in [
        ("mkfifo $REMUDA_OUTPUTS/p", "the output p is a named pipe"),
        ("cd $REMUDA_OUTPUTS; mkdir d; mknod d/n c 1 3 || mkfifo d/n", "the output d/n is a "),
        ("touch $REMUDA_OUTPUTS/stdout", "the output stdout has the place"),
        ("mkdir -p $REMUDA_OUTPUTS/stderr/a", "the output stderr/a has the place"),
        ("touch x $REMUDA_OUTPUTS/x", "two outputs are called x"),
        ("mkdir x; touch x/y $REMUDA_OUTPUTS/x", "two outputs are called x/y"),
        ("rmdir $REMUDA_OUTPUTS; ln -s / $REMUDA_OUTPUTS", "$REMUDA_OUTPUTS cannot be read"),
        (&*many, "more than 4096 files"),
        ("mkdir -p $REMUDA_OUTPUTS/$(seq -s / 300)", "more than 256 inside each other"),
        (
            "cd $REMUDA_OUTPUTS; d=$(seq -f %0200g -s / 18); mkdir -p $d; cd $d; \
             seq 300 | xargs touch",
            "names of its 300 outputs",
        ),
    ] {
        let mut spec = shell(&format!("echo printed; {script}"));
        spec.description.outputs = vec!["x".into()];
        let end = bench.execute(&spec, 0);
        assert_eq!(how(&end), (TaskState::Failed, 0, Cause::OutputFailed), "{script}");
        assert!(stderr(&end).contains(reason), "{reason}: {end:?}");
        assert_eq!(kept(&end)[0].3, "printed\n");
        assert_eq!(end.outputs.len(), 2, "what it printed and nothing else");
    }
    let end = bench.execute(&shell("mkfifo $REMUDA_OUTPUTS/p; exit 3"), 0);
    assert_eq!(how(&end), (TaskState::Failed, 3, Cause::None), "it failed before");
    assert!(stderr(&end).contains("named pipe"));
}

#[test]
fn no_task_makes_the_worker_read_what_is_not_its_own() {
    let bench = Bench::new();
    let secret = bench.file("secret");
    fs::write(&secret, "not yours").unwrap();
    symlink("/", bench.file("root")).unwrap();
    let secret = secret.display();
    for (script, reason) in [
        ("echo printed; rm ../stdout; ln -s SECRET ../stdout", "stdout cannot be read"),
        ("rm ../stdout; mkfifo ../stdout", "stdout is a named pipe"),
        ("rm -r ../scratch; ln -s ROOT ../scratch", "cannot be read"),
    ] {
        let script = script.replace("SECRET", &secret.to_string());
        let script = script.replace("ROOT", &bench.file("root").display().to_string());
        let end = bench.execute(&shell(&script), 0);
        assert_eq!(how(&end), (TaskState::Failed, 0, Cause::OutputFailed), "{script}");
        assert!(stderr(&end).contains(reason), "{end:?}");
        assert!(kept(&end).iter().all(|(.., text)| !text.contains("not yours")));
    }
    // Where it took away the place of the reason, there is none.
    let end = bench.execute(&shell("rm ../stderr; mkfifo ../stderr"), 0);
    assert_eq!(how(&end), (TaskState::Failed, 0, Cause::OutputFailed));
    assert!(end.outputs.is_empty());
    let end = bench.execute(&shell(&format!("ln -sf {secret} $REMUDA_OUTPUTS/a")), 0);
    assert_eq!(kept(&end)[0].3, secret.to_string());
}

#[test]
fn what_is_printed_is_bounded_and_waiting_for_storage_can_be_cancelled() {
    let bench = Bench::new();
    let marker = bench.file("marker");
    let script = "head -c 40000000 /dev/zero; echo few >&2; echo > MARKER";
    let (cancel, thread) = bench.start(shell(&script.replace("MARKER", marker.to_str().unwrap())));
    line_of(&marker);
    // No storage node is known here: what is large waits for one.
    cancel.cancel();
    let end = thread.join().unwrap();
    assert_eq!((end.state, end.cause), (TaskState::Lost, Cause::Cancelled));
    assert!(end.outputs.is_empty(), "nothing is kept of what is lost");
    let stdout = fs::read(bench.kept(0).join("stdout")).unwrap();
    let (kept, note) = stdout.split_at(16 << 20);
    assert!(kept.iter().all(|&byte| byte == 0));
    assert!(str::from_utf8(note).unwrap().contains("only the first 16 MiB"));
    assert_eq!(fs::read(bench.kept(0).join("stderr")).unwrap(), b"few\n");
}
