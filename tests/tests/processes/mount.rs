//! `remuda mount` on a real cluster: what was put is an ordinary folder again, fetched as it is read.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use ::mount::{InputShown, Mount, MountConfig, THREADS, can_mount};
use client::Client;
use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::ids::{FileId, JobId};
use proto::limits::BLOCK_BYTES;
use proto::time::Duration;

use crate::cluster::{Cluster, LONG, kill, program};
use crate::counters::storage_counters;
use crate::files::{describe, make_folder};

const SMALL: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "2", "--workers", "0"];

/// Longer than the client library tries to reach storage before it gives a block up.
const GIVES_UP: Duration = Duration::from_secs(120);

/// A mount by `remuda mount`. When it goes out of scope it is unmounted, whatever happened.
struct Mounted {
    at: PathBuf,
    daemon: Child,
    said: Arc<Mutex<String>>,
}

impl Mounted {
    /// Mounts at a folder in the cluster's place, with a cache beside it, and waits until it stands.
    #[track_caller]
    fn start(cluster: &Cluster, name: &str) -> Mounted {
        let at = cluster.place().join(name);
        fs::create_dir_all(&at).expect("make a folder");
        Mounted::at(cluster, &at)
    }

    #[track_caller]
    fn at(cluster: &Cluster, at: &Path) -> Mounted {
        let path = at.to_str().expect("UTF-8");
        let cache = format!("{path}.cache");
        let arguments = ["mount", path, "--cache", &cache, "--cache-size", "256M"];
        let mut command = cluster.command(&arguments);
        let mut daemon =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("run the program");
        let stderr = daemon.stderr.take().expect("a pipe");
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock().expect("nobody panics with it");
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let mut mounted = Mounted { at: at.to_owned(), daemon, said };
        until("the mount", LONG, || {
            let ended = mounted.daemon.try_wait().expect("ask for it");
            assert!(ended.is_none(), "it ended: {}", mounted.said());
            mounted.said().contains("mounted at").then_some(())
        });
        mounted
    }

    fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Asks it to end, and waits; what it said.
    #[track_caller]
    fn stop(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        let status =
            until("the end of the mount", LONG, || self.daemon.try_wait().expect("ask for it"));
        assert!(status.success(), "{status}: {}", self.said());
        assert!(!is_mounted(&self.at), "{}", self.said());
        self.said()
    }

    /// Kills it, so that a dead mount stays.
    #[track_caller]
    fn kill(mut self) {
        kill(self.daemon.id());
        self.daemon.wait().expect("it ended");
        assert!(is_mounted(&self.at), "nobody unmounts what is dead");
        let error = fs::metadata(&self.at).expect_err("it is dead");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
        // It stays for whoever mounts there next.
        self.at = PathBuf::new();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Where the daemon is frozen or in the midst of something, it ends all the same.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        while !self.at.as_os_str().is_empty() && is_mounted(&self.at) {
            let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                break;
            }
        }
        if std::thread::panicking() {
            eprintln!("the mount said:\n{}", self.said());
        }
    }
}

fn is_mounted(at: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").expect("the kernel's list");
    let at = at.to_str().expect("UTF-8");
    list.lines().any(|line| line.split(' ').nth(4) == Some(at))
}

/// Standard output of a shell command in a folder that must succeed.
#[track_caller]
fn shell(folder: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", script])
        .current_dir(folder)
        .output()
        .expect("run a shell");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {complaint}");
    assert!(complaint.is_empty(), "{script}: {complaint}");
    output.stdout
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> rustix::io::Errno {
    let error = result.expect_err("it is refused");
    rustix::io::Errno::from_raw_os_error(error.raw_os_error().unwrap_or_default())
}

#[test]
fn a_mounted_folder_is_what_was_put() {
    if !has(Need::Fuse) {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let folder = cluster.place().join("folder");
    fs::create_dir(&folder).unwrap();
    make_folder(&folder);
    fs::copy(program(), folder.join("remuda")).unwrap();
    let wanted = describe(&folder);
    let source = cluster.run(&["put", "--times", "folder", "data"]).ok();
    let uuid = source.trim().strip_prefix("file:").unwrap().to_owned();
    let mounted = Mounted::start(&cluster, "mnt");
    let data = mounted.path("names/data");

    // As `find` and `sha256sum`, `tar` and `cp` see it, twice: fetched, then cached. The root of a
    // tree has no time.
    let archive = "find . -mindepth 1 -print0 | LC_ALL=C sort -z | tar --no-recursion --null \
                   -T - --owner=0 --group=0 --numeric-owner -cf - | sha256sum";
    for _ in 0..2 {
        assert_eq!(describe(&data), wanted);
        assert_eq!(shell(&data, archive), shell(&folder, archive));
    }
    shell(cluster.place(), "cp -a mnt/names/data copy");
    assert_eq!(describe(&cluster.place().join("copy")), wanted);
    let times = r"find . -mindepth 1 -printf '%T@ %P\0' | LC_ALL=C sort -z";
    assert_eq!(shell(&cluster.place().join("copy"), times), shell(&folder, times));
    // The same tree and a file of it by UUID.
    assert_eq!(describe(&mounted.path(&format!("files/{uuid}"))), wanted);
    let file = cluster.run(&["put", "folder/large"]).ok();
    let file = file.trim().strip_prefix("file:").unwrap();
    let large = fs::read(folder.join("large")).unwrap();
    assert!(fs::read(mounted.path(&format!("files/{file}"))).unwrap() == large);

    // Programs run from it: a script, and a binary whose pages come as they are used.
    assert_eq!(shell(&data, "./program"), b"hello\n");
    assert_eq!(shell(&data, "./link"), b"hello\n");
    assert_eq!(shell(&data, "./remuda --version"), shell(&folder, "./remuda --version"));
    let mapped = "import mmap, sys, hashlib
with open(sys.argv[1], 'rb') as file:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        print(hashlib.sha256(pages).hexdigest(), len(pages))";
    let digest = |path: PathBuf| {
        let output = Command::new("python3").args(["-c", mapped]).arg(path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    assert_eq!(digest(data.join("large")), digest(folder.join("large")));
    let copied = "import shutil, sys; shutil.copy2(sys.argv[1], sys.argv[2])";
    let to = cluster.place().join("copied");
    let mut python = Command::new("python3");
    python.args(["-c", copied]).arg(data.join("program")).arg(&to);
    assert!(python.status().unwrap().success());
    assert_eq!(fs::read(&to).unwrap(), b"#!/bin/sh\necho hello\n");

    // What is read of many places at once is right.
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (path, large) = (data.join("large"), &large);
            scope.spawn(move || {
                let file = fs::File::open(path).unwrap();
                for at in 0..40usize {
                    let offset = (at * 7_919 + reader * 104_729) * 31 % (large.len() - 5_000);
                    let mut buffer = [0; 5_000];
                    file.read_exact_at(&mut buffer, offset as u64).unwrap();
                    assert!(buffer[..] == large[offset..offset + 5_000]);
                }
            });
        }
    });
    let said = mounted.stop();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    // What nobody may write into, nobody but root could remove.
    shell(cluster.place(), "chmod -R u+w folder copy");
}

#[test]
fn what_would_change_something_or_is_not_there_is_refused() {
    if !has(Need::Fuse) {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let folder = cluster.place().join("folder");
    fs::create_dir_all(folder.join("inner")).unwrap();
    fs::write(folder.join("file"), "content").unwrap();
    symlink("file", folder.join("link")).unwrap();
    cluster.run(&["put", "folder", "data"]).ok();
    cluster.run(&["put", "folder/file", "one"]).ok();
    let mounted = Mounted::start(&cluster, "mnt");
    let data = mounted.path("names/data");
    let (file, inner) = (data.join("file"), data.join("inner"));

    use rustix::io::Errno;
    let changed = fs::File::options().write(true).open(&file);
    assert_eq!(errno(changed), Errno::ROFS);
    for path in [&data, &mounted.at, &mounted.path("files"), &mounted.path("names")] {
        assert_eq!(errno(fs::write(path.join("new"), "content")), Errno::ROFS);
        assert_eq!(errno(fs::create_dir(path.join("new"))), Errno::ROFS);
        assert_eq!(errno(symlink("target", path.join("new"))), Errno::ROFS);
    }
    assert_eq!(errno(fs::remove_file(&file)), Errno::ROFS);
    assert_eq!(errno(fs::remove_dir(&inner)), Errno::ROFS);
    assert_eq!(errno(fs::rename(&file, data.join("other"))), Errno::ROFS);
    assert_eq!(errno(fs::hard_link(&file, data.join("other"))), Errno::ROFS);
    let mode = fs::Permissions::from_mode(0o777);
    assert_eq!(errno(fs::set_permissions(&file, mode)), Errno::ROFS);
    let truncated = fs::File::options().write(true).truncate(true).open(&file);
    assert_eq!(errno(truncated), Errno::ROFS);
    let opened = fs::File::open(&file).unwrap();
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    assert_eq!(errno(opened.set_modified(now)), Errno::ROFS);
    use rustix::fs::{Access, access};
    assert_eq!(access(&file, Access::WRITE_OK), Err(Errno::ROFS));
    assert_eq!(access(&file, Access::EXEC_OK), Err(Errno::ACCESS));
    assert_eq!(access(&file, Access::READ_OK), Ok(()));
    assert_eq!(access(&inner, Access::READ_OK | Access::EXEC_OK), Ok(()));

    let absent = "6ba7b810-9dad-81d1-80b4-00c04fd430c8";
    for path in [
        "absent".to_owned(),
        "names/absent".to_owned(),
        "names/data/absent".to_owned(),
        "files/absent".to_owned(),
        format!("files/{absent}"),
        format!("files/{}", absent.to_uppercase()),
        format!("jobs/{absent}"),
    ] {
        assert_eq!(errno(fs::metadata(mounted.path(&path))), Errno::NOENT, "{path}");
    }
    assert_eq!(errno(fs::metadata(file.join("inside"))), Errno::NOTDIR);
    assert_eq!(errno(fs::read_dir(&file)), Errno::NOTDIR);
    assert_eq!(errno(fs::read(&inner)), Errno::ISDIR);
    assert_eq!(errno(fs::read_link(&file)), Errno::INVAL);
    let long = "n".repeat(256);
    for folder in [&data, &mounted.at, &mounted.path("names"), &mounted.path("files")] {
        assert_eq!(errno(fs::metadata(folder.join(&long))), Errno::NAMETOOLONG);
    }
    assert_eq!(shell(&data, "stat -f -c %l .; cat link"), b"255\ncontent");

    // Names come, lead elsewhere and go; whoever has what they led to keeps it.
    let names = || {
        let list = fs::read_dir(mounted.path("names")).unwrap();
        let mut names: Vec<_> = list.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["data", "one"]);
    assert_eq!(fs::read_to_string(mounted.path("names/one")).unwrap(), "content");
    let before = fs::metadata(mounted.path("names/one")).unwrap().ino();
    let mut kept = fs::File::open(mounted.path("names/one")).unwrap();
    fs::write(folder.join("file"), "newer content").unwrap();
    cluster.run(&["put", "folder/file", "one"]).ok();
    cluster.run(&["put", "folder", "two"]).ok();
    until("the newer version", LONG, || {
        let content = fs::read_to_string(mounted.path("names/one")).unwrap();
        (content == "newer content").then_some(())
    });
    assert_ne!(fs::metadata(mounted.path("names/one")).unwrap().ino(), before);
    let mut content = String::new();
    kept.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    until("the newer list", LONG, || (names() == ["data", "one", "two"]).then_some(()));
    cluster.run(&["rm", "one"]).ok();
    until("the name to go", LONG, || fs::metadata(mounted.path("names/one")).err());
    until("it to go from the list", LONG, || (names() == ["data", "two"]).then_some(()));

    // What cannot be mounted at says why; what is busy is unmounted nevertheless.
    fs::create_dir(cluster.place().join("full")).unwrap();
    fs::write(cluster.place().join("full/file"), "").unwrap();
    fs::create_dir(cluster.place().join("inside")).unwrap();
    for (dir, more, said) in [
        ("absent", &[][..], "absent"),
        ("full", &[], "is not empty"),
        ("full/file", &[], "is no folder"),
        ("mnt", &[], "is a mount already"),
        ("inside", &["--cache", "inside/cache"], "lies inside the mount"),
        ("inside", &["--cache", "mnt.cache"], "is used by another process"),
    ] {
        let found = cluster.run(&[&["mount", dir], more].concat());
        assert_eq!(found.exit, 2, "{found:?}");
        assert!(found.stderr.starts_with("error: ") && found.stderr.contains(said), "{found:?}");
    }
    let busy = fs::File::open(data.join("inner")).unwrap();
    mounted.stop();
    drop((busy, kept));
}

#[test]
fn only_what_is_read_is_fetched_and_what_was_fetched_is_used_again() {
    if !has(Need::Fuse) {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let (gib, block) = (1u64 << 30, BLOCK_BYTES as u64);
    let sparse = fs::File::create(cluster.place().join("sparse")).unwrap();
    sparse.set_len(10 * gib).unwrap();
    let written: Vec<u8> = (0..4_096u32).map(|at| (at % 249) as u8).collect();
    sparse.write_all_at(&written, 9 * gib).unwrap();
    cluster.run(&["put", "sparse", "sparse"]).ok();
    let mounted = Mounted::start(&cluster, "mnt");

    let before = storage_counters(&cluster);
    let path = mounted.path("names/sparse");
    assert_eq!(fs::metadata(&path).unwrap().len(), 10 * gib);
    let read = |offset: u64| {
        let mut buffer = vec![1; 4_096];
        fs::File::open(&path).unwrap().read_exact_at(&mut buffer, offset).unwrap();
        buffer
    };
    assert!(read(9 * gib) == written);
    let after = storage_counters(&cluster);
    let (blocks, bytes) = (after.get_count - before.get_count, after.get_bytes - before.get_bytes);
    assert!(blocks <= 2 && bytes <= 2 * block, "{blocks} blocks, {bytes} bytes");
    assert!(blocks > 0, "the counters count");
    assert!(read(3 * gib + 5) == [0; 4_096]);
    let fetched = storage_counters(&cluster).get_count;

    // Killed: a dead mount stays, and the next one cleans it away. What the first had fetched is
    // still there, and is not trusted blindly.
    let at = mounted.at.clone();
    mounted.kill();
    let mounted = Mounted::at(&cluster, &at);
    assert!(read(9 * gib) == written);
    assert!(read(3 * gib + 5) == [0; 4_096]);
    assert_eq!({ storage_counters(&cluster).get_count }, fetched, "all of it was cached");
    let said = mounted.stop();
    assert!(!said.contains("WARN"), "{said}");
    let damaged = shell(
        &cluster.place().join("mnt.cache"),
        "for file in $(find . -name '*.content'); do \
         printf x | dd of=$file bs=1 seek=9 conv=notrunc status=none; echo $file; done",
    );
    assert!(!damaged.is_empty());
    let mounted = Mounted::at(&cluster, &at);
    assert!(read(9 * gib) == written);
    assert!(storage_counters(&cluster).get_count > fetched, "it was fetched again");
    let said = mounted.stop();
    assert!(said.contains("a cached block is damaged"), "{said}");
}

#[test]
fn what_storage_does_not_give_is_an_error_in_time() {
    if !has(Need::Fuse) {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let folder = cluster.place().join("folder");
    fs::create_dir_all(folder.join("inner")).unwrap();
    fs::write(folder.join("cached"), "cached").unwrap();
    fs::write(folder.join("inner/absent"), vec![7; 100_000]).unwrap();
    cluster.run(&["put", "folder", "data"]).ok();
    let mounted = Mounted::start(&cluster, "mnt");
    // A name is followed each second; who has a file of what it led to needs the masters no more.
    let inside = fs::File::open(mounted.path("names/data/inner/absent")).unwrap();
    let cached = fs::File::open(mounted.path("names/data/cached")).unwrap();
    let mut content = [0; 6];
    cached.read_exact_at(&mut content, 0).unwrap();

    cluster.stop();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| inside.read_at(&mut [0; 10], 0));
        // What is known does not wait behind it.
        cached.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, *b"cached");
        assert_eq!(inside.metadata().unwrap().len(), 100_000);
        until("an error", GIVES_UP, || waiting.is_finished().then_some(()));
        assert_eq!(errno(waiting.join().unwrap()), rustix::io::Errno::IO);
    });
    assert!(mounted.said().contains("a block cannot be read"), "{}", mounted.said());
    // An error is not for ever.
    cluster.dev(SMALL).ok();
    let mut bytes = [0; 10];
    until("the block", GIVES_UP, || inside.read_exact_at(&mut bytes, 99_990).ok());
    assert_eq!(bytes, [7; 10]);
    drop((inside, cached));
    mounted.stop();
}

#[test]
fn the_inputs_of_a_job_are_a_folder() {
    if !has(Need::Fuse) {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let folder = cluster.place().join("folder");
    fs::create_dir_all(folder.join("inner")).unwrap();
    fs::write(folder.join("inner/file"), "inner").unwrap();
    fs::write(cluster.place().join("tool"), "#!/bin/sh\necho ran\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(cluster.place().join("tool"), mode).unwrap();
    let inputs = ["--input", "data=folder", "--input", "bin/run=tool"];
    let job = cluster.submit(&[&inputs[..], &["--", "true"]].concat());
    let mounted = Mounted::start(&cluster, "mnt");
    let shown = mounted.path(&format!("jobs/{job}/inputs"));
    assert_eq!(describe(&shown.join("data")), describe(&folder));
    assert_eq!(
        shell(&shown, "find . -type f | LC_ALL=C sort; bin/run"),
        b"./bin/run\n./data/inner/file\nran\n"
    );
    mounted.stop();
}

/// As a worker has it: no program of its own, jobs that come and go, and a mount that somebody takes
/// away. No cluster is needed for what is not read.
#[test]
fn a_mount_inside_of_a_process_ends_and_begins_again() {
    if !has(Need::Fuse) {
        return;
    }
    assert_eq!(can_mount(), Ok(()));
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = place.path().canonicalize().unwrap();
    let (at, cache) = (place.join("mnt"), place.join("cache"));
    fs::create_dir(&at).unwrap();
    let client = Client::connect(vec!["tcp://127.0.0.1:1".to_owned()]).unwrap();
    let client = Arc::new(client);
    let start = || {
        let config = MountConfig { at: &at, cache: &cache, cache_bytes: 1 << 20, threads: THREADS };
        Mount::start(config, Arc::clone(&client)).unwrap()
    };
    let mount = start();
    let (one, two) = (JobId(7 << 64), JobId(8 << 64));
    let file = |length| InputShown::File { file: FileId(5), length, is_executable: true };
    let inputs = |length| [("bin/tool".to_owned(), file(length))];
    mount.add_job(one, &inputs(10)).unwrap();
    mount.add_job(two, &[]).unwrap();
    mount.add_job(one, &inputs(10)).unwrap();
    let tool = mount.path_of_inputs(one).join("bin/tool");
    let metadata = fs::metadata(&tool).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (10, 0o755));
    let jobs = || {
        let list = fs::read_dir(at.join("jobs")).unwrap();
        let mut jobs: Vec<_> = list.map(|it| it.unwrap().file_name()).collect();
        jobs.sort();
        jobs
    };
    assert_eq!(jobs(), [one.to_string().as_str(), two.to_string().as_str()]);
    assert_eq!(fs::read_dir(mount.path_of_inputs(two)).unwrap().count(), 0);
    // Other inputs of the same job are there at once; who has the old ones keeps them.
    let kept = fs::File::open(&tool).unwrap();
    mount.add_job(one, &inputs(20)).unwrap();
    assert_eq!(fs::metadata(&tool).unwrap().len(), 20);
    assert_eq!(kept.metadata().unwrap().len(), 10);
    assert!(mount.add_job(two, &[("../climb".to_owned(), file(1))]).is_err());
    mount.remove_job(two);
    until("the job to go", LONG, || (jobs() == [one.to_string().as_str()]).then_some(()));

    // Taken away while somebody is in it, and made again with the same cache.
    assert!(mount.is_alive());
    shell(&place, "umount -l mnt");
    assert!(!mount.is_alive());
    drop(mount);
    let again = start();
    again.add_job(one, &inputs(30)).unwrap();
    assert_eq!(fs::metadata(&tool).unwrap().len(), 30);
    assert_eq!(kept.metadata().unwrap().len(), 10);
    let (ended, has_ended) = std::sync::mpsc::channel();
    again.on_end(move || ended.send(()).unwrap());
    drop(again);
    assert!(!is_mounted(&at));
    has_ended.recv_timeout(LONG.to_std()).unwrap();
    drop(kept);
}
