//! The cluster as the state machine that `consensus` replicates.

use consensus::{Applied, RestoreError, StateMachine};
use proto::status::ErrorCode;

use super::cluster::Cluster;
use super::commands::{ClientChange, Command, Output};

impl StateMachine for Cluster {
    type Output = Output;
    type Snapshot = Cluster;

    fn apply(&mut self, at: &Applied, command: &[u8]) -> Output {
        match Command::decode(command) {
            Some(command) => Cluster::apply(self, at.index, at.log_time.0, command),
            None => Output::refused(
                ErrorCode::Malformed,
                "the log has a command that this version does not know",
            ),
        }
    }

    fn is_needed_without_room(command: &[u8]) -> bool {
        match Command::decode(command) {
            // What makes the log grow with the work. Outcomes wait at their workers.
            Some(Command::Complete { .. }) | None => false,
            Some(Command::Client(_, change)) => {
                !matches!(change, ClientChange::Submit { .. } | ClientChange::Transaction { .. })
            }
            Some(_) => true,
        }
    }

    fn snapshot(&self) -> Cluster {
        self.clone()
    }

    fn encode(snapshot: &Cluster) -> Vec<u8> {
        postcard::to_stdvec(snapshot).expect("the state has an encoding")
    }

    fn restore(bytes: &[u8]) -> Result<Cluster, RestoreError> {
        postcard::from_bytes(bytes).map_err(|error| RestoreError(error.to_string()))
    }

    fn digest(&self) -> [u8; 32] {
        *blake3::hash(&Cluster::encode(self)).as_bytes()
    }
}
