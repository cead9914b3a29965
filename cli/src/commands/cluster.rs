//! `remuda cluster`: makes the data folder of a new cluster's first master.

use std::path::Path;

use proto::ids::ClusterId;

use crate::failure::Failure;
use crate::flags::Cluster;
use crate::output;

/// Does what is asked of clusters.
pub(crate) fn run(flags: &Cluster) -> Result<(), Failure> {
    let Cluster::Init { config } = flags;
    match found(config.as_deref())? {
        Founding::Now(cluster) => output::print(&format!("{cluster}\n")),
        Founding::Before(cluster) => {
            let text = format!("the data folder holds a master of cluster {cluster} already");
            Err(Failure::usage(text).hint("start it: remuda serve master --config FILE"))
        }
    }
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
pub(crate) fn found(_config: Option<&Path>) -> Result<Founding, Failure> {
    Err(Failure::failed("this build has no master tier"))
}
