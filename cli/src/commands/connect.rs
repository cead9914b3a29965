//! From what the user says to a client of the cluster that is meant, and from the client's errors
//! to failures with an exit code.

use client::find::{FindError, Found, Surroundings, VARIABLE};
use client::logic::registers::RegisterError;
use client::logic::session::CallFailure;
use client::{Client, ClientError};
use proto::name::NameError;
use proto::status::ErrorCode;
use proto::time::Duration;

use crate::failure::{During, Failure};
use crate::flags::Where;

/// How long the masters are asked: several elections.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the cluster that is meant.
pub(crate) fn connect(place: &Where) -> Result<Client, Failure> {
    let found = find(place)?;
    let mut client = Client::connect(found.addresses).during(|| "start a client".into())?;
    client.set_patience(PATIENCE);
    Ok(client)
}

/// Where the cluster that is meant is, without asking it anything.
pub(super) fn find(place: &Where) -> Result<Found, Failure> {
    Surroundings::of_process(place.cluster.clone()).find().map_err(|error| {
        let text = node::log::chain(&error);
        match error {
            FindError::Stopped(folder) => Failure::unreachable(text)
                .hint(format!("start it: remuda dev --detach --dir {}", folder.display())),
            FindError::None => Failure::unreachable(text)
                .hint("start one: remuda dev --detach; or name one: --cluster tcp://HOST:PORT"),
            FindError::Several(several) => {
                let line = |local: &client::find::Local| {
                    format!("\n  --cluster {}", local.folder.display())
                };
                let list: String = several.iter().map(line).collect();
                Failure::usage(text).hint(format!("one of{list}"))
            }
            FindError::Unknown(_) => Failure::usage(text).hint(format!(
                "--cluster and {VARIABLE} take addresses, a folder, a file or the name of one in \
                 ~/.config/remuda"
            )),
            FindError::Read { .. } | FindError::File { .. } | FindError::NotOurs(_) => {
                Failure::usage(text)
            }
        }
    })
}

/// What a client's error is to the shell: 3 where nobody answers, 2 where the request makes no
/// sense, else 1.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let text = node::log::chain(error);
    match error {
        ClientError::Call(CallFailure::Unreachable { .. }) => Failure::unreachable(text).hint(
            "see whether its masters run (a local cluster: remuda dev status), or name \
                 another one: --cluster tcp://HOST:PORT",
        ),
        ClientError::Call(CallFailure::Refused { code, .. }) => match code {
            ErrorCode::Invalid | ErrorCode::TooLarge | ErrorCode::JobDiffers => {
                Failure::usage(text)
            }
            ErrorCode::OtherCluster | ErrorCode::OtherVersion => Failure::unreachable(text),
            _ => Failure::failed(text),
        },
        ClientError::NotSendable(_)
        | ClientError::Name(NameError::Name { .. })
        | ClientError::Path { .. } => Failure::usage(text),
        ClientError::Register(error) => register_failure(error, text),
        ClientError::NoName { .. } => Failure::failed(text).hint("see what there is: remuda ls"),
        ClientError::NotEnded { .. } => {
            Failure::failed(text).hint("see what it prints meanwhile: remuda logs JOB/TASK")
        }
        ClientError::NoOutput { .. } => {
            Failure::failed(text).hint("see what there is: remuda ls job:JOB/TASK")
        }
        ClientError::IsLink { .. } => {
            Failure::failed(text).hint("name what it leads to, or the whole folder")
        }
        ClientError::NoEntry { .. } => {
            Failure::failed(text).hint("see what there is: remuda ls name:NAME[/PATH]")
        }
        _ => Failure::failed(text),
    }
}

fn register_failure(error: &RegisterError, text: String) -> Failure {
    match error {
        RegisterError::TooLong { .. } => Failure::usage(text),
        RegisterError::NoRing => Failure::unreachable(text),
        RegisterError::NoNode { .. } => {
            Failure::failed(text).hint("see which there are: remuda df")
        }
        RegisterError::OutcomeUnknown { .. } => {
            Failure::failed(text).hint("read it: who reads the new value has it stored for all")
        }
        RegisterError::Unavailable { .. } => {
            Failure::failed(text).hint("see which storage nodes answer: remuda health")
        }
        RegisterError::TooMany => Failure::failed(text),
    }
}

/// Turns a client's errors into failures.
pub(crate) trait Asked<T> {
    /// The answer, or the failure.
    fn asked(self) -> Result<T, Failure>;
}

impl<T> Asked<T> for Result<T, ClientError> {
    fn asked(self) -> Result<T, Failure> {
        self.map_err(|error| failure(&error))
    }
}
