//! What every daemon opens at its start: its data folder, its sockets, its telemetry.
//!
//! Two steps, because a tier may recover what its folder holds before anybody can reach it. The
//! loop that turns all of this is the tier's own.

use std::io;

use fastrand::Rng;
use proto::ids::ClusterId;
use proto::status::Role;

use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::data_folder::{DataFolder, DataFolderError};
use crate::logic::network::Identity;
use crate::logic::updates::Publications;
use crate::network::{Network, NetworkError};
use crate::pubsub::{PubSubError, Publisher};
use crate::stop::Stop;

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration names no master.
    #[error("no master is named: set `masters` in table [node], one address is enough")]
    NoMaster,
    /// The data folder is another's, in use, or unreadable; or the masters belong to another
    /// cluster than it does.
    #[error("open the data folder")]
    DataFolder(#[source] DataFolderError),
    /// The address cannot be bound.
    #[error("begin to listen")]
    Network(#[source] NetworkError),
    /// The address for telemetry cannot be bound.
    #[error("publish telemetry")]
    Telemetry(#[source] PubSubError),
    /// The system gives no thread, no randomness, or does not tell what was asked.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The system's refusal of an operation, for `map_err`.
pub fn system(operation: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::System { operation, source }
}

/// A seeded generator of the process's own.
///
/// # Errors
/// [`DaemonError::System`].
pub fn generator() -> Result<Rng, DaemonError> {
    crate::random::generator().map_err(system("draw randomness"))
}

/// Opens the data folder of a node of this tier.
///
/// # Errors
/// [`DaemonError::DataFolder`].
pub fn open_folder(settings: &NodeConfig, tier: Role) -> Result<DataFolder, DaemonError> {
    let opened = DataFolder::open(&settings.data, tier, settings.cluster);
    opened.map_err(DaemonError::DataFolder)
}

/// The same for a node that finds its cluster through its masters: at least one must be named.
///
/// # Errors
/// [`DaemonError::NoMaster`] and [`DaemonError::DataFolder`].
pub fn open_folder_below_masters(
    settings: &NodeConfig,
    tier: Role,
) -> Result<DataFolder, DaemonError> {
    if settings.masters.is_empty() {
        return Err(DaemonError::NoMaster);
    }
    open_folder(settings, tier)
}

/// A node that others can reach.
#[derive(Debug)]
pub struct Daemon {
    /// Who it is; its lock is held until the end.
    pub folder: DataFolder,
    /// The process's time.
    pub clock: Clock,
    /// Where it publishes what it says of itself.
    pub publisher: Publisher,
    /// Its sockets.
    pub network: Network,
    reachable: String,
}

impl Daemon {
    /// Begins to listen and to publish as the settings say. The loop's poll ends when `stop` is
    /// requested.
    ///
    /// # Errors
    /// [`DaemonError::Network`] and [`DaemonError::Telemetry`].
    pub fn listen(
        settings: &NodeConfig,
        tier: Role,
        folder: DataFolder,
        stop: &Stop,
    ) -> Result<Daemon, DaemonError> {
        let clock = Clock::start();
        let exposure = settings.exposure();
        let identity = identity(&folder, tier, settings.reachable.clone().unwrap_or_default());
        let network = Network::bind(identity, &settings.listen, exposure, clock);
        let network = network.map_err(DaemonError::Network)?;
        let publications = Publications::new(folder.node(), tier, folder.incarnation());
        let publisher =
            Publisher::bind(network.context(), &settings.telemetry, exposure, publications);
        let publisher = publisher.map_err(DaemonError::Telemetry)?;
        let waker = network.waker();
        stop.on_request(move || waker.wake());
        let bound = network.bound_address().unwrap_or_default();
        let reachable = settings.reachable.clone().unwrap_or_else(|| bound.to_owned());
        tracing::info!(
            %tier,
            node = %folder.node(),
            incarnation = %folder.incarnation(),
            address = bound,
            "the node listens"
        );
        Ok(Daemon { folder, clock, publisher, network, reachable })
    }

    /// Where other nodes reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.reachable
    }

    /// The node was accepted by a cluster: its folder belongs to it from now on.
    ///
    /// # Errors
    /// [`DaemonError::DataFolder`] where it belongs to another one.
    pub fn join(&mut self, cluster: ClusterId) -> Result<(), DaemonError> {
        let is_new = self.folder.cluster() != Some(cluster);
        self.folder.join(cluster).map_err(DaemonError::DataFolder)?;
        self.network.set_cluster(cluster);
        if is_new {
            tracing::info!(%cluster, "the node joined its cluster");
        }
        Ok(())
    }
}

/// What a node with this folder tells its peers of itself.
#[must_use]
pub fn identity(folder: &DataFolder, tier: Role, address: String) -> Identity {
    Identity {
        node: folder.node(),
        role: tier,
        cluster: folder.cluster().unwrap_or_default(),
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address,
    }
}
