//! One daemon per folder, of one tier and one cluster, started ever anew.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;
use crate::files::{File, Open};

const ONE: ClusterId = ClusterId(1);
const OTHER: ClusterId = ClusterId(2);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn refused(path: &Path, tier: Role, cluster: Option<ClusterId>) -> String {
    let error = DataFolder::open(path, tier, cluster).unwrap_err();
    error.to_string().replace(&path.display().to_string(), "HERE")
}

#[test]
fn who_it_is_stays_and_the_incarnation_grows() {
    let folder = folder();
    let path = folder.path().join("made/on/the/way");
    let first = DataFolder::open(&path, Role::Worker, None).unwrap();
    let (node, store) = (first.node(), first.store());
    assert!(!node.is_nil() && !store.is_nil());
    assert_eq!((first.cluster(), first.incarnation()), (None, Incarnation(1)));
    drop(first);
    for start in 2..5 {
        let again = DataFolder::open(&path, Role::Worker, None).unwrap();
        assert_eq!((again.node(), again.store()), (node, store));
        assert_eq!(again.incarnation(), Incarnation(start));
    }
    fs::remove_dir_all(&path).unwrap();
    let emptied = DataFolder::open(&path, Role::Worker, None).unwrap();
    assert_ne!(emptied.node(), node);
    assert_ne!(emptied.store(), store);
}

#[test]
fn a_second_open_is_refused_and_names_the_process() {
    let folder = folder();
    let open = DataFolder::open(folder.path(), Role::Storage, None).unwrap();
    let pid = std::process::id();
    assert_eq!(
        refused(folder.path(), Role::Storage, None),
        format!("data folder HERE is in use by process {pid}: each daemon needs one of its own")
    );
    drop(open);
    // The refused one was not counted.
    let next = DataFolder::open(folder.path(), Role::Storage, None).unwrap();
    assert_eq!(next.incarnation(), Incarnation(2));
}

/// Set for the process that the test below starts: the folder to open.
const FOLDER: &str = "REMUDA_TEST_FOLDER";

#[test]
#[ignore = "is the process that the test below starts"]
fn process_that_holds_a_folder() {
    let Ok(path) = std::env::var(FOLDER) else {
        return;
    };
    let _open = DataFolder::open(Path::new(&path), Role::Master, None).unwrap();
    println!("holds it");
    crate::stop::Stop::new().wait();
}

#[test]
fn a_killed_process_gives_the_folder_back_and_its_incarnation_is_never_used_again() {
    let folder = folder();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "data_folder::tests::process_that_holds_a_folder"])
        .args(["--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let held = output.lines().any(|line| line.unwrap().ends_with("holds it"));
    let refusal = held.then(|| refused(folder.path(), Role::Master, None));
    process.kill().unwrap();
    process.wait().unwrap();
    let pid = process.id();
    assert_eq!(
        refusal.unwrap(),
        format!("data folder HERE is in use by process {pid}: each daemon needs one of its own")
    );
    let next = DataFolder::open(folder.path(), Role::Master, None).unwrap();
    assert_eq!(next.incarnation(), Incarnation(2));
}

#[test]
fn folders_of_another_tier_or_cluster_are_refused() {
    let folder = folder();
    drop(DataFolder::open(folder.path(), Role::Worker, Some(ONE)).unwrap());
    assert_eq!(
        refused(folder.path(), Role::Storage, Some(ONE)),
        "data folder HERE belongs to a worker, this is a storage: name another folder"
    );
    assert_eq!(
        refused(folder.path(), Role::Worker, Some(OTHER)),
        format!(
            "data folder HERE belongs to cluster {ONE}, this node is to be part of {OTHER}: \
             name another folder or correct the cluster"
        )
    );
    let open = DataFolder::open(folder.path(), Role::Worker, None).unwrap();
    assert_eq!((open.cluster(), open.incarnation()), (Some(ONE), Incarnation(2)));
}

#[test]
fn a_folder_joins_one_cluster_and_stays_there() {
    let folder = folder();
    let mut open = DataFolder::open(folder.path(), Role::Worker, None).unwrap();
    open.join(ONE).unwrap();
    open.join(ONE).unwrap();
    let error = open.join(OTHER).unwrap_err();
    assert!(matches!(error, DataFolderError::OtherCluster { found: ONE, wanted: OTHER, .. }));
    assert_eq!(open.cluster(), Some(ONE));
    let node = open.node();
    drop(open);
    let open = DataFolder::open(folder.path(), Role::Worker, None).unwrap();
    assert_eq!((open.cluster(), open.node()), (Some(ONE), node));
}

#[test]
fn an_identity_that_was_cut_or_changed_anywhere_is_refused() {
    let folder = folder();
    drop(DataFolder::open(folder.path(), Role::Worker, Some(ONE)).unwrap());
    let path = folder.path().join(identity::NAME);
    let whole = fs::read(&path).unwrap();
    let torn = "HERE/identity: it is torn or was edited: its checksum does not match; \
                put it back from a backup, or remove the whole folder, and the node joins as a \
                new one";
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(refused(folder.path(), Role::Worker, None), torn, "{length} bytes");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert_eq!(refused(folder.path(), Role::Worker, None), torn, "byte {at}");
    }
    fs::write(&path, &whole).unwrap();
    let open = DataFolder::open(folder.path(), Role::Worker, None).unwrap();
    assert_eq!(open.incarnation(), Incarnation(2));
}

#[test]
fn an_identity_of_a_later_version_is_not_called_torn() {
    let folder = folder();
    let path = folder.path().join(identity::NAME);
    let write = |content: &str| {
        let checksum = crc32c::crc32c(content.as_bytes());
        fs::write(&path, format!("{content}checksum = \"{checksum:08x}\"\n")).unwrap();
    };
    let ids = "tier = 'Worker'\nnode = '00000000-0000-0000-0000-000000000001'\n\
               store = '00000000-0000-0000-0000-000000000002'\n";
    write(&format!("format = 2\n{ids}incarnation = 1\n"));
    let text = refused(folder.path(), Role::Worker, None);
    assert!(text.contains("it has format 2, this version knows 1"), "{text}");
    write(&format!("format = 1\n{ids}incarnation = 1\nshelf = 1\n"));
    let text = refused(folder.path(), Role::Worker, None);
    assert!(text.contains("it was written by another version: unknown field `shelf`"), "{text}");
    write(&format!("format = 1\n{ids}incarnation = {}\n", u32::MAX));
    let text = refused(folder.path(), Role::Worker, None);
    assert!(text.contains("it was started 4294967295 times, which is the last"), "{text}");
    write(&format!("format = 1\n{ids}incarnation = 5\n"));
    let open = DataFolder::open(folder.path(), Role::Worker, None).unwrap();
    assert_eq!((open.node(), open.incarnation()), (NodeId(1), Incarnation(6)));
}

#[test]
fn somebody_elses_folder_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("worker.toml"), "").unwrap();
    fs::write(folder.path().join("worker.log"), "").unwrap();
    fs::write(folder.path().join("identity.new"), "cut off by a cr").unwrap();
    let thesis = folder.path().join("thesis.tex");
    fs::write(&thesis, "").unwrap();
    assert_eq!(
        refused(folder.path(), Role::Worker, None),
        "HERE is not empty (it has thesis.tex) and not a data folder of Remuda: name another folder"
    );
    fs::remove_file(thesis).unwrap();
    DataFolder::open(folder.path(), Role::Worker, None).unwrap();
}

/// The real disk, and what was asked of it in which order.
struct Recorded(Arc<Mutex<Vec<String>>>);

impl Recorded {
    fn record(&self, what: &str, path: &Path) {
        let name = path.file_name().unwrap().to_string_lossy();
        self.0.lock().unwrap().push(format!("{what} {name}"));
    }
}

struct RecordedFile(Box<dyn File>, Arc<Mutex<Vec<String>>>);

impl Files for Recorded {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealFiles.list(path)
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        self.record("open", path);
        Ok(Box::new(RecordedFile(RealFiles.open(path, how)?, Arc::clone(&self.0))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.record("rename", from);
        RealFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.record("sync folder", path);
        RealFiles.sync_dir(path)
    }
}

impl File for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.lock().unwrap().push("write".into());
        self.0.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.lock().unwrap().push("sync".into());
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

#[test]
fn the_start_is_counted_on_disk_before_it_counts() {
    let outer = folder();
    let path = outer.path().join("data");
    fs::create_dir(&path).unwrap();
    let operations = Arc::new(Mutex::new(Vec::new()));
    let files = Recorded(Arc::clone(&operations));
    let mut draw = || Ok(7);
    let mut identity = identity::start(&files, &path, Role::Worker, None, &mut draw).unwrap();
    let steps = ["open identity.new", "write", "sync", "rename identity.new", "sync folder data"];
    assert_eq!(operations.lock().unwrap().drain(..).collect::<Vec<_>>()[1..], steps);
    identity::join(&files, &path, &mut identity, ONE).unwrap();
    assert_eq!(operations.lock().unwrap().drain(..).collect::<Vec<_>>(), steps);
}
