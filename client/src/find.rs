//! Which cluster is meant: what the user says, the environment, the folder, or the only one that
//! runs.
//!
//! Responsible for turning that into addresses of nodes, and for saying precisely why it cannot.
//! Deliberately does not connect, and never falls back to another cluster than the one that is
//! meant. A local cluster (`remuda dev`) is a folder with `dev.toml`, which names its processes,
//! and `lock`, which is held while it runs.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::status::Role;
use rustix::fs::FlockOperation;
use serde::Deserialize;

/// The folder of a local cluster, unless told otherwise.
pub const LOCAL_FOLDER: &str = ".remuda";

/// Names a cluster where no flag does.
pub const VARIABLE: &str = "REMUDA_CLUSTER";

const PLAN: &str = "dev.toml";
const LOCK: &str = "lock";

/// Addresses of one cluster.
const ADDRESSES: usize = 256;

/// A cluster that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Nodes of it, masters where they are known: `tcp://HOST:PORT`.
    pub addresses: Vec<String>,
    /// The folder of a local cluster.
    pub folder: Option<PathBuf>,
}

/// A local cluster in a list of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its UUID as text.
    pub cluster: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// Why no cluster was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The cluster that is meant is a local one that does not run.
    #[error("the cluster of {} is stopped", .0.display())]
    Stopped(PathBuf),
    /// Nothing says which cluster is meant, and several run.
    #[error("several clusters run here: say which one by --cluster or {VARIABLE}")]
    Several(Vec<Local>),
    /// Nothing says which cluster is meant, and none runs.
    #[error("no cluster is named, none is in this folder or above it, and none runs")]
    None,
    /// A name that stands for no cluster.
    #[error("{0:?} is no known cluster, no file and no address (tcp://HOST:PORT)")]
    Unknown(String),
    /// A file that should describe a cluster cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that should describe a cluster does not.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The list of this user's clusters lies in a folder that others may write to.
    #[error("{} is not this user's alone, so what it lists is not trusted", .0.display())]
    NotOurs(PathBuf),
}

/// What decides which cluster is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `--cluster`.
    pub flag: Option<String>,
    /// `REMUDA_CLUSTER`.
    pub variable: Option<String>,
    /// The working folder.
    pub folder: PathBuf,
    /// Where the user's local clusters are listed: links named by UUID that lead to their folders.
    pub registry: PathBuf,
    /// Where the user keeps `NAME.toml` for clusters with a name.
    pub names: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. An empty variable counts as none.
    #[must_use]
    pub fn of_process(flag: Option<String>) -> Surroundings {
        let path = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        let user = rustix::process::getuid().as_raw();
        let registry = path("XDG_RUNTIME_DIR").map(|folder| folder.join("remuda"));
        let home = || path("HOME").map(|home| home.join(".config"));
        Surroundings {
            flag,
            variable: std::env::var(VARIABLE).ok().filter(|it| !it.is_empty()),
            folder: std::env::current_dir().unwrap_or_default(),
            registry: registry.unwrap_or_else(|| PathBuf::from(format!("/tmp/remuda-{user}"))),
            names: path("XDG_CONFIG_HOME").or_else(home).map(|folder| folder.join("remuda")),
        }
    }

    /// Finds the cluster that is meant.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(&self) -> Result<Found, FindError> {
        let said = self.flag.as_ref().or(self.variable.as_ref());
        if let Some(text) = said.filter(|text| !text.is_empty()) {
            return self.find_said(text);
        }
        for folder in self.folder.ancestors() {
            let local = folder.join(LOCAL_FOLDER);
            if local.join(PLAN).is_file() {
                return find_local(&local);
            }
        }
        let mut running = self.running()?;
        match (running.pop(), running.is_empty()) {
            (None, _) => Err(FindError::None),
            (Some(only), true) => find_local(&only.folder),
            (Some(last), false) => {
                running.push(last);
                Err(FindError::Several(running))
            }
        }
    }

    /// NAME, FILE or ADDRESS[,ADDRESS…].
    fn find_said(&self, text: &str) -> Result<Found, FindError> {
        if text.contains("://") {
            let addresses: Vec<String> =
                text.split(',').map(str::trim).map(str::to_owned).collect();
            if addresses.len() > ADDRESSES || !addresses.iter().all(|it| is_address(it)) {
                return Err(FindError::Unknown(text.to_owned()));
            }
            return Ok(Found { addresses, folder: None });
        }
        let path = self.folder.join(text);
        if path.join(PLAN).is_file() {
            return find_local(&path);
        }
        if path.join(LOCAL_FOLDER).join(PLAN).is_file() {
            return find_local(&path.join(LOCAL_FOLDER));
        }
        if path.is_file() {
            return read_cluster_file(&path);
        }
        let is_name = !text.contains('/') && !text.starts_with('.');
        if is_name && let Some(names) = &self.names {
            let path = names.join(format!("{text}.toml"));
            if path.is_file() {
                return read_cluster_file(&path);
            }
        }
        let mut named = if is_name { self.running()? } else { Vec::new() };
        named.retain(|local| local.cluster.starts_with(text));
        match (named.pop(), named.is_empty()) {
            (Some(only), true) => find_local(&only.folder),
            (Some(last), false) => {
                named.push(last);
                Err(FindError::Several(named))
            }
            (None, _) => Err(FindError::Unknown(text.to_owned())),
        }
    }

    /// The local clusters of this user that run, by UUID.
    ///
    /// # Errors
    /// [`FindError::NotOurs`] and [`FindError::Read`].
    pub fn running(&self) -> Result<Vec<Local>, FindError> {
        let failed = |source| FindError::Read { path: self.registry.clone(), source };
        let found = match fs::symlink_metadata(&self.registry) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let is_ours = found.uid() == rustix::process::getuid().as_raw();
        if !found.is_dir() || !is_ours || found.mode() & 0o022 != 0 {
            return Err(FindError::NotOurs(self.registry.clone()));
        }
        let mut running = Vec::new();
        for entry in fs::read_dir(&self.registry).map_err(failed)? {
            let link = entry.map_err(failed)?;
            let Ok(folder) = fs::read_link(link.path()) else {
                continue;
            };
            if is_held(&folder) {
                let cluster = link.file_name().to_string_lossy().into_owned();
                running.push(Local { cluster, folder });
            }
        }
        running.sort_by(|one, other| one.cluster.cmp(&other.cluster));
        Ok(running)
    }
}

/// True where a process holds the lock of a local cluster's folder.
fn is_held(folder: &Path) -> bool {
    // Taken only to see; given back when the file is closed.
    File::open(folder.join(LOCK)).is_ok_and(|file| {
        let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        taken == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

#[derive(Deserialize)]
struct Plan {
    process: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    tier: Role,
    listen: String,
}

fn find_local(folder: &Path) -> Result<Found, FindError> {
    if !is_held(folder) {
        return Err(FindError::Stopped(folder.to_owned()));
    }
    let path = folder.join(PLAN);
    let plan: Plan = read_toml(&path)?;
    let masters = plan.process.into_iter().filter(|process| process.tier == Role::Master);
    let addresses = masters.map(|process| process.listen).collect();
    checked(&path, addresses, Some(folder.to_owned()))
}

/// A file that names a cluster: `NAME.toml` in `~/.config/remuda`, or one that is named.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Addresses of nodes of the cluster, `tcp://HOST:PORT`.
    pub addresses: Vec<String>,
}

fn read_cluster_file(path: &Path) -> Result<Found, FindError> {
    let file: ClusterFile = read_toml(path)?;
    checked(path, file.addresses, None)
}

fn checked(
    path: &Path,
    addresses: Vec<String>,
    folder: Option<PathBuf>,
) -> Result<Found, FindError> {
    let wrong = |why: String| FindError::File { path: path.to_owned(), why };
    if addresses.is_empty() || addresses.len() > ADDRESSES {
        return Err(wrong(format!("it names {} addresses", addresses.len())));
    }
    match addresses.iter().find(|address| !is_address(address)) {
        Some(address) => Err(wrong(format!("{address:?} is no address (tcp://HOST:PORT)"))),
        None => Ok(Found { addresses, folder }),
    }
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FindError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| FindError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|error| FindError::File { path: path.to_owned(), why: error.message().to_owned() })
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'))
    else {
        return false;
    };
    let is_host = !host.is_empty() && !host.contains(['/', ',', ' ']);
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};

    use super::*;

    /// A folder for everything, and no surroundings beside it.
    struct Here {
        outer: tempfile::TempDir,
        around: Surroundings,
    }

    fn here() -> Here {
        let outer = tempfile::tempdir().unwrap();
        let registry = outer.path().join("registry");
        fs::DirBuilder::new().mode(0o700).create(&registry).unwrap();
        let folder = outer.path().join("work/deep");
        fs::create_dir_all(&folder).unwrap();
        let names = Some(outer.path().join("names"));
        let around = Surroundings { folder, registry, names, ..Surroundings::default() };
        Here { outer, around }
    }

    impl Here {
        /// A local cluster in a folder; the lock is held while the file lives.
        fn cluster(&self, folder: &str, port: u16) -> (PathBuf, File) {
            let folder = self.outer.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let process = |tier: &str, port| {
                format!(
                    "[[process]]\ntier = \"{tier}\"\nnumber = 1\nlisten = \"tcp://127.0.0.1:{port}\"\n\
                     telemetry = \"tcp://127.0.0.1:1\"\n"
                )
            };
            let plan = format!("slots = 2\n{}{}", process("Storage", 9), process("Master", port));
            fs::write(folder.join(PLAN), plan).unwrap();
            let lock = File::create(folder.join(LOCK)).unwrap();
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
            (folder, lock)
        }

        fn list(&self, cluster: &str, folder: &Path) {
            symlink(folder, self.around.registry.join(cluster)).unwrap();
        }

        fn find(&self, flag: &str) -> Result<Found, FindError> {
            Surroundings { flag: Some(flag.to_owned()), ..self.around.clone() }.find()
        }
    }

    fn address(port: u16) -> Vec<String> {
        vec![format!("tcp://127.0.0.1:{port}")]
    }

    #[test]
    fn addresses_are_taken_as_they_are() {
        let here = here();
        let found = here.find("tcp://one:1,tcp://two:2").unwrap();
        assert_eq!(found.addresses, ["tcp://one:1", "tcp://two:2"]);
        for wrong in ["tcp://one", "udp://one:1", "tcp://one:0", "tcp://one:99999", "tcp://:1", "x"]
        {
            assert!(matches!(here.find(wrong), Err(FindError::Unknown(_))), "{wrong}");
        }
    }

    #[test]
    fn the_flag_goes_before_the_variable_and_both_before_the_folder() {
        let mut here = here();
        let _cluster = here.cluster("work/.remuda", 5);
        here.around.variable = Some("tcp://variable:1".to_owned());
        assert_eq!(here.find("tcp://flag:1").unwrap().addresses, ["tcp://flag:1"]);
        assert_eq!(here.around.find().unwrap().addresses, ["tcp://variable:1"]);
        here.around.variable = None;
        assert_eq!(here.around.find().unwrap().addresses, address(5));
    }

    #[test]
    fn the_nearest_folder_counts_even_where_it_is_stopped() {
        let here = here();
        let (outer, _outer_lock) = here.cluster(".remuda", 4);
        here.list("aaaa", &outer);
        let (near, lock) = here.cluster("work/.remuda", 5);
        let found = here.around.find().unwrap();
        assert_eq!(found, Found { addresses: address(5), folder: Some(near.clone()) });
        drop(lock);
        assert!(matches!(here.around.find(), Err(FindError::Stopped(folder)) if folder == near));
    }

    #[test]
    fn the_only_running_cluster_is_meant_and_of_several_none() {
        let here = here();
        assert!(matches!(here.around.find(), Err(FindError::None)));
        let (first, _first_lock) = here.cluster("first", 1);
        let (stopped, lock) = here.cluster("stopped", 2);
        drop(lock);
        here.list("aaaa", &first);
        here.list("bbbb", &stopped);
        here.list("cccc", &here.outer.path().join("removed"));
        assert_eq!(here.around.find().unwrap().addresses, address(1));
        let (second, _second_lock) = here.cluster("second", 3);
        here.list("dddd", &second);
        let Err(FindError::Several(several)) = here.around.find() else {
            panic!("two run");
        };
        let local = |cluster: &str, folder: &Path| Local {
            cluster: cluster.to_owned(),
            folder: folder.to_owned(),
        };
        assert_eq!(several, [local("aaaa", &first), local("dddd", &second)]);
        assert_eq!(here.find("dd").unwrap().addresses, address(3));
        assert!(matches!(here.find("bb"), Err(FindError::Unknown(_))));
    }

    #[test]
    fn a_list_that_others_may_write_is_not_trusted() {
        let here = here();
        fs::set_permissions(&here.around.registry, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(here.around.find(), Err(FindError::NotOurs(_))));
    }

    #[test]
    fn files_and_folders_can_be_named() {
        let here = here();
        let (folder, _lock) = here.cluster("other/.remuda", 6);
        for path in [&folder, folder.parent().unwrap()] {
            assert_eq!(here.find(path.to_str().unwrap()).unwrap().addresses, address(6));
        }
        let names = here.around.names.clone().unwrap();
        fs::create_dir(&names).unwrap();
        fs::write(names.join("lab.toml"), "addresses = [\"tcp://lab:1\"]").unwrap();
        assert_eq!(here.find("lab").unwrap().addresses, ["tcp://lab:1"]);
        fs::write(here.around.folder.join("near.toml"), "addresses = [\"tcp://near:1\"]").unwrap();
        assert_eq!(here.find("near.toml").unwrap().addresses, ["tcp://near:1"]);
        for (name, text) in [
            ("empty", "addresses = []"),
            ("bad", "addresses = [\"here\"]"),
            ("unknown", "address = \"tcp://lab:1\""),
            ("torn", "addresses = ["),
        ] {
            fs::write(names.join(format!("{name}.toml")), text).unwrap();
            assert!(matches!(here.find(name), Err(FindError::File { .. })), "{name}");
        }
    }
}
