//! Inputs mounted as EROFS: the same as by the plain way, fetched as they are read, and nothing that
//! hangs when whoever serves them is gone.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ::mount::{Images, InputShown, Mount, MountConfig, THREADS};
use client::{Client, Times};
use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::ids::JobId;

use crate::cluster::{Cluster, Frozen, LONG, kill};
use crate::files::{describe, make_folder};

const SMALL: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "2", "--workers", "0"];

/// What these tests take of a machine.
fn is_possible() -> bool {
    has(Need::Fuse) && has(Need::Root) && has(Need::Erofs)
}

/// Both ways beside each other, as a worker has them. Unmounted when it goes out of scope.
struct Both {
    images: Images,
    mount: Mount,
}

impl Both {
    #[track_caller]
    fn start(place: &Path, client: &Arc<Client>) -> Both {
        let (at, cache) = (place.join("mnt"), place.join("cache"));
        fs::create_dir_all(&at).expect("make a folder");
        let config = MountConfig { at: &at, cache: &cache, cache_bytes: 1 << 30, threads: THREADS };
        let mount = Mount::start(config, Arc::clone(client)).expect("a mount");
        let images = Images::start(&mount, &place.join("images"), &place.join("trees"), None);
        Both { images: images.expect("images"), mount }
    }

    /// Where some inputs stand by the plain way and as an image.
    #[track_caller]
    fn show(&self, number: u64, inputs: &[(String, InputShown)]) -> (PathBuf, PathBuf) {
        let job = JobId(u128::from(number) << 64);
        self.mount.add_job(job, inputs).expect("it can be shown");
        let image = self.images.show(number, inputs).expect("it can be shown");
        (self.mount.path_of_inputs(job), image)
    }
}

fn client_of(cluster: &Cluster) -> Arc<Client> {
    let masters = cluster.tier("master").into_iter().map(|it| it.address);
    Arc::new(Client::connect(masters.collect()).expect("a client"))
}

#[track_caller]
fn put(client: &Client, folder: &Path) -> InputShown {
    let pointer = client.put_tree(folder, Times::Keep, &mut |_| {}).expect("it is stored").pointer;
    InputShown::Tree { tree: pointer.file, length: pointer.length }
}

/// All that is said of every entry, but what each file system has its own numbers for.
#[track_caller]
fn attributes(folder: &Path) -> Vec<Vec<u8>> {
    let script =
        r"find . -type d -printf '%P %y %m %T@ %U %G\0' -o -printf '%P %y %m %s %T@ %U %G %l\0'";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output();
    let output = output.expect("run find");
    assert!(output.status.success(), "{output:?}");
    let mut lines: Vec<_> = output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}

#[track_caller]
fn said(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("run it");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Adds a random tree to a folder.
fn grow(folder: &Path, random: &mut fastrand::Rng, depth: usize) {
    for _ in 0..random.usize(1..12) {
        let name: Vec<u8> = (0..random.usize(1..40))
            .map(|_| random.u8(1..=255))
            .filter(|byte| *byte != b'/')
            .collect();
        let path = folder.join(std::ffi::OsStr::from_bytes(&name));
        if name.is_empty() || matches!(&*name, b"." | b"..") || path.symlink_metadata().is_ok() {
            continue;
        }
        match random.u8(0..4) {
            0 if depth > 0 => {
                fs::create_dir(&path).expect("make a folder");
                grow(&path, random, depth - 1);
            }
            1 => {
                let target: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(1..)).collect();
                symlink(std::ffi::OsStr::from_bytes(&target), &path).expect("make a link");
            }
            _ => {
                let longest = [0, 1, 4_095, 4_096, 4_097, 70_000, 2_097_152, 4_500_000];
                let mut content = vec![0; longest[random.usize(..longest.len())]];
                random.fill(&mut content);
                fs::write(&path, &content).expect("make a file");
                let mode = fs::Permissions::from_mode(random.u32(0..0o1000) | 0o400);
                fs::set_permissions(&path, mode).expect("set its mode");
            }
        }
    }
}

#[test]
fn both_ways_show_the_same() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let folder = cluster.place().join("folder");
    fs::create_dir(&folder).unwrap();
    make_folder(&folder);
    for seed in 0..4 {
        let random = folder.join(format!("random-{seed}"));
        fs::create_dir(&random).unwrap();
        grow(&random, &mut fastrand::Rng::with_seed(seed), 4);
    }
    let client = client_of(&cluster);
    let tree = put(&client, &folder);
    let file = client.put_bytes(b"#!/bin/sh\necho ran\n".to_vec()).unwrap();
    let tool = InputShown::File { file, length: 19, is_executable: true };
    let inputs = [("data".to_owned(), tree), ("bin/run".to_owned(), tool)];
    let both = Both::start(cluster.place(), &client);
    let (plain, image) = both.show(1, &inputs);
    assert_ne!(plain, image);
    assert_eq!(attributes(&image), attributes(&plain));
    assert_eq!(describe(&image), describe(&plain));
    assert_eq!(describe(&image.join("data")), describe(&folder));
    let kind = said(Command::new("stat").args(["-f", "-c", "%T"]).arg(&image));
    assert_eq!(kind, b"erofs\n");

    // Programs, and pages that come as they are used; zeros behind the end.
    assert_eq!(said(&mut Command::new(image.join("bin/run"))), b"ran\n");
    fs::copy("/bin/true", folder.join("true")).unwrap();
    let (_, second) = both.show(2, &[("more".to_owned(), put(&client, &folder))]);
    said(&mut Command::new(second.join("more/true")));
    let mapped = "import mmap, sys, hashlib
with open(sys.argv[1], 'rb') as file:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        print(hashlib.sha256(pages).hexdigest(), len(pages))";
    let digest = |path: PathBuf| said(Command::new("python3").args(["-c", mapped]).arg(path));
    assert_eq!(digest(image.join("data/large")), digest(folder.join("large")));
    let large = fs::read(folder.join("large")).unwrap();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (path, large) = (second.join("more/large"), &large);
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

    // Nothing can be changed, and nobody but a task's own rights decides who reads.
    let refused = |result: std::io::Result<()>| result.expect_err("it is read-only").raw_os_error();
    let read_only = Some(rustix::io::Errno::ROFS.raw_os_error());
    assert_eq!(refused(fs::write(image.join("data/new"), "")), read_only);
    assert_eq!(refused(fs::remove_file(image.join("data/program"))), read_only);
    assert_eq!(refused(fs::create_dir(image.join("new"))), read_only);

    // Equal inputs stand at one place until the last one goes; who is in it stays in it.
    let (_, same) = both.show(3, &inputs);
    assert_eq!((same == image, both.images.tree_count()), (true, 2));
    both.images.hide(1);
    assert_eq!(both.images.tree_count(), 2);
    let mut kept = fs::File::open(image.join("data/program")).unwrap();
    both.images.hide(3);
    assert_eq!(both.images.tree_count(), 1);
    assert!(!image.exists());
    let mut content = String::new();
    kept.read_to_string(&mut content).unwrap();
    assert_eq!(content, "#!/bin/sh\necho hello\n");
    assert_eq!(both.images.failure_count(2), 0);
    drop(both);
    assert!(!second.exists());
    said(Command::new("chmod").args(["-R", "u+w"]).arg(&folder));
}

#[test]
fn only_what_is_touched_is_fetched() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::start(SMALL);
    let gib = 1u64 << 30;
    let folder = cluster.place().join("folder");
    fs::create_dir(&folder).unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(10 * gib).unwrap();
    let written: Vec<u8> = (0..4_096u32).map(|at| (at % 249) as u8).collect();
    sparse.write_all_at(&written, 9 * gib).unwrap();
    let client = client_of(&cluster);
    let tree = put(&client, &folder);
    let both = Both::start(cluster.place(), &client);
    let (_, image) = both.show(1, &[("data".to_owned(), tree)]);
    let path = image.join("data/sparse");
    assert_eq!(fs::metadata(&path).unwrap().len(), 10 * gib);
    let before = both.mount.counters().fetched;
    let mut buffer = [0; 4_096];
    fs::File::open(&path).unwrap().read_exact_at(&mut buffer, 9 * gib).unwrap();
    assert!(buffer[..] == written);
    // The block, and the manifest that names it.
    let fetched = both.mount.counters().fetched - before;
    assert!((1..=2).contains(&fetched), "{fetched} blocks");
    assert!(fs::metadata(&path).unwrap().blocks() > 0);
}

/// A worker's own mount of the inputs of its only job.
#[track_caller]
fn mounted_tree(cluster: &Cluster) -> PathBuf {
    let trees = cluster.folder().join("worker-1/trees");
    until("a mounted tree", LONG, || {
        let tree = fs::read_dir(&trees).ok()?.next()?.ok()?.path();
        tree.join("data/small").exists().then_some(tree)
    })
}

/// Whether every thread of a process is stopped. One that is about to take a question of the kernel
/// takes it before it stops, and whoever asked that cannot be killed meanwhile.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let stat = |path: PathBuf| fs::read_to_string(path.join("stat")).unwrap_or_default();
    let mut stats = threads.flatten().map(|thread| stat(thread.path()));
    stats.all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
}

/// Reads a page of a file, in a process of its own that is killed when it takes too long.
fn read_page(path: &Path, page: u64) -> bool {
    let skip = format!("skip={page}");
    let from = format!("if={}", path.display());
    let mut reader = Command::new("timeout");
    reader.args(["-s", "KILL", "5", "dd", &from, "of=/dev/null", "bs=4096", "count=1", &skip]);
    reader.output().expect("run it").status.success()
}

#[test]
fn whoever_serves_a_tree_may_freeze_or_die() {
    if !is_possible() {
        return;
    }
    let shape = [&SMALL[..6], &["--workers", "1", "--slots", "1", "--inputs", "erofs"]].concat();
    let cluster = Cluster::start(&shape);
    let folder = cluster.place().join("folder");
    fs::create_dir(&folder).unwrap();
    let large: Vec<u8> = (0..40_000_000u32).map(|at| (at % 251) as u8).collect();
    fs::write(folder.join("large"), &large).unwrap();
    fs::write(folder.join("small"), "small").unwrap();
    let inputs = ["--input", "data=folder"];
    let go_on = cluster.place().join("go-on");
    let script = format!(
        "while ! [ -e {} ]; do sleep 0.1; done; cat $REMUDA_INPUTS/data/small",
        go_on.display()
    );
    let job = cluster.submit(&[&inputs[..], &["--", "sh", "-c", &script]].concat());
    let tree = mounted_tree(&cluster);
    let (path, small) = (tree.join("data/large"), tree.join("data/small"));
    assert_eq!(fs::read_to_string(&small).unwrap(), "small");
    assert!(read_page(&path, 0));

    // Frozen: what is cached goes on, who waits for the rest can be killed.
    let worker = cluster.tier("worker")[0].pid.expect("it runs");
    let frozen = Frozen::freeze(worker);
    assert_eq!(fs::read_to_string(&small).unwrap(), "small");
    until("the worker to stop", LONG, || is_stopped(worker).then_some(()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_page(&path, 9_000));
        // It goes on where this fails, so that nothing waits for ever.
        let frozen = frozen;
        until("the reader's end", LONG, || reader.is_finished().then_some(()));
        drop(frozen);
        assert!(!reader.join().unwrap());
    });
    assert!(read_page(&path, 9_000));

    // Killed: errors, and another start mounts at the same place while somebody is in the old one.
    let inside = fs::File::open(&path).unwrap();
    let mut page = [0; 4_096];
    kill(worker);
    let error = until("an error", LONG, || inside.read_exact_at(&mut page, 20_000_000).err());
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    fs::write(&go_on, "").unwrap();
    cluster.run(&["wait", &job]).ok();
    assert_eq!(cluster.run(&["logs", &job]).ok(), "small");
    assert_eq!(mounted_tree(&cluster), tree, "equal inputs stand at one place");
    assert!(read_page(&path, 4_000), "of the new one");
    assert!(inside.read_exact_at(&mut page, 28_000_000).is_err(), "the old one stays as it was");
}
