//! `remuda cluster`: makes the data folder of a master, of a new cluster's first or of another one.

use std::path::Path;

use consensus::DiskError;
use master::MasterError;
use node::config::Loaded;
use proto::ids::ClusterId;

use crate::failure::{During, Failure};
use crate::flags::Cluster;
use crate::identity::identity_of;
use crate::output;

/// Does what is asked of clusters.
pub(crate) fn run(flags: &Cluster) -> Result<(), Failure> {
    match flags {
        Cluster::Init { config } => match found(config.as_deref())? {
            Founding::Now(cluster) => output::print(&format!("{cluster}\n")),
            Founding::Before(cluster) => Err(is_made(cluster)),
        },
        Cluster::Join { config } => {
            let config: Loaded<master::Config> = super::serve::load(config.as_deref(), &[])?;
            output::print(&format!("{}\n", join(&config.settings)?))
        }
    }
}

fn is_made(cluster: ClusterId) -> Failure {
    Failure::usage(format!("the data folder holds a master of cluster {cluster} already"))
        .hint("start it: remuda serve master --config FILE")
}

/// Makes a data folder that of a master of an existing cluster.
fn join(config: &master::Config) -> Result<ClusterId, Failure> {
    master::join(config).map_err(|error| {
        let cluster = identity_of(&config.node.data).and_then(|identity| identity.cluster);
        let text = format!("join a cluster: {}", node::log::chain(&error));
        match (&error, cluster) {
            (MasterError::Disk(DiskError::AlreadyMade(_)), Some(cluster)) => is_made(cluster),
            (MasterError::NoAnswer(_), _) => Failure::unreachable(text)
                .hint("see whether the masters run that the configuration names"),
            (MasterError::NoCluster(_), _) => Failure::usage("nothing says which cluster to join")
                .hint("name its masters in table [node]: masters = [\"tcp://HOST:PORT\"]"),
            (MasterError::NoFixedPort, _) => Failure::usage(text),
            _ => Failure::failed(text),
        }
    })
}

/// When a master's folder became that of its cluster's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Founding {
    /// By this call.
    Now(ClusterId),
    /// It held a master already and was left as it is.
    Before(ClusterId),
}

/// Makes a new cluster whose first master has this configuration, unless it has one already.
pub(crate) fn found(config: Option<&Path>) -> Result<Founding, Failure> {
    let config: Loaded<master::Config> = super::serve::load(config, &[])?;
    let data = &config.settings.node.data;
    match master::init(&config.settings) {
        Ok(cluster) => Ok(Founding::Now(cluster)),
        Err(error) => {
            let cluster = identity_of(data).and_then(|identity| identity.cluster);
            match (&error, cluster) {
                (MasterError::Disk(DiskError::AlreadyMade(_)), Some(cluster)) => {
                    Ok(Founding::Before(cluster))
                }
                _ => Err(error).during(|| "make a cluster".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_founded_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("master.toml");
        let data = folder.path().join("data");
        let text = format!("[node]\ndata = {data:?}\nlisten = \"tcp://127.0.0.1:7000\"\n");
        std::fs::write(&config, text).unwrap();
        let Founding::Now(cluster) = found(Some(&config)).unwrap() else {
            panic!("there was no cluster before");
        };
        assert_eq!(found(Some(&config)).unwrap(), Founding::Before(cluster));
        let refused = run(&Cluster::Init { config: Some(config) }).unwrap_err();
        assert!(format!("{refused:?}").contains(&cluster.to_string()), "{refused:?}");
    }
}
