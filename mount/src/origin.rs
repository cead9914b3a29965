//! Where everything comes from that is not on this machine: the client library, behind a trait so
//! that what the mount does with it can be tested without a cluster.
//!
//! Every call blocks for a bounded time: a transfer gives up half a minute after its first failure,
//! a question to the masters after the client's patience.

use bytes::Bytes;
use client::logic::jobs::JobSelector;
use client::logic::session::CallFailure;
use client::logic::transfer::TransferError;
use client::{Client, ClientError, Named};
use proto::description::{Input, InputSource, JobDescription, Runtime};
use proto::ids::{FileId, JobId};
use proto::limits::DESCRIPTION_FILE_BYTES;
use proto::status::ErrorCode;

use crate::cache::BlockName;
use crate::logic::inputs::InputShown;

/// Names that are asked for together.
const PAGE: u32 = 1_000;

/// Why something did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    /// It does not exist.
    #[error("it does not exist")]
    Absent,
    /// It may exist, but did not come.
    #[error("{0}")]
    Failed(String),
}

/// Gives what is not here.
pub(crate) trait Origin: Send + Sync {
    /// A whole block, verified.
    fn block(&self, name: BlockName) -> Result<Bytes, OriginError>;

    /// Bytes of a file.
    fn length(&self, file: FileId) -> Result<u64, OriginError>;

    /// What a name points to.
    fn name(&self, name: &str) -> Result<Named, OriginError>;

    /// Names behind another one (empty for the first), in order, and whether there are more.
    fn names(&self, after: &str) -> Result<(Vec<Named>, bool), OriginError>;

    /// The inputs of a job.
    fn inputs(&self, job: JobId) -> Result<Vec<(String, InputShown)>, OriginError>;
}

impl Origin for Client {
    fn block(&self, name: BlockName) -> Result<Bytes, OriginError> {
        Ok(self.read_block(name.block, name.kind())?.into())
    }

    fn length(&self, file: FileId) -> Result<u64, OriginError> {
        // No bytes are wanted, so only the block comes that tells what the file is.
        let mut pieces = self.stream(file, 0..0);
        while pieces.next_piece()?.is_some() {}
        let unknown = || OriginError::Failed("its length was not told".to_owned());
        pieces.length().ok_or_else(unknown)
    }

    fn name(&self, name: &str) -> Result<Named, OriginError> {
        Ok(Client::name(self, name)?)
    }

    fn names(&self, after: &str) -> Result<(Vec<Named>, bool), OriginError> {
        let page = Client::names(self, "", after, PAGE)?;
        Ok((page.items, page.next.is_some()))
    }

    fn inputs(&self, job: JobId) -> Result<Vec<(String, InputShown)>, OriginError> {
        let described = self.describe(JobSelector::Id(job))?.description;
        let Runtime::Stored { file, length } = described.runtime else {
            return shown(described.inputs);
        };
        if length > DESCRIPTION_FILE_BYTES as u64 {
            return Err(OriginError::Failed("its description is too long".to_owned()));
        }
        let bytes = self.get_range(file, 0..length)?;
        let failed = |error: &dyn std::error::Error| OriginError::Failed(node::log::chain(error));
        let stored = JobDescription::decode_file(&bytes).map_err(|error| failed(&error))?;
        stored.validate().map_err(|error| failed(&error))?;
        shown(stored.inputs)
    }
}

fn shown(inputs: Vec<Input>) -> Result<Vec<(String, InputShown)>, OriginError> {
    let shown = |input: Input| match input.source {
        InputSource::File { file, length, is_executable } => {
            Ok((input.name, InputShown::File { file, length, is_executable }))
        }
        InputSource::Tree { tree, length } => Ok((input.name, InputShown::Tree { tree, length })),
        InputSource::Name(name) => {
            Err(OriginError::Failed(format!("nobody resolved the name {name:?} of an input")))
        }
    };
    inputs.into_iter().map(shown).collect()
}

impl From<ClientError> for OriginError {
    fn from(error: ClientError) -> OriginError {
        match error {
            ClientError::NoName { .. }
            | ClientError::Name(_)
            | ClientError::Transfer(TransferError::NotFound { .. })
            | ClientError::Call(CallFailure::Refused { code: ErrorCode::NotFound, .. }) => {
                OriginError::Absent
            }
            other => OriginError::Failed(node::log::chain(&other)),
        }
    }
}
