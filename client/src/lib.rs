//! The Rust client library of a Remuda cluster.
//!
//! - [`logic`] decides: how masters are found, how requests are repeated, where blocks go and come
//!   from. It is pure; the worker, the mount and the simulator drive it inside their own loops.
//! - [`Client`] is the face for programs: one thread drives the same logic over real sockets. Its
//!   `begin_…` methods return futures that any executor can await.
//! - Folders become trees and come back ([`Client::put_tree`], [`Client::get_tree`]); names point to
//!   files and trees ([`Client::set_name`]).
//! - [`Draft`] is a job whose program and inputs are on this machine; [`Client::upload`] makes a
//!   submission of it. [`Client::outputs`] reads what its tasks wrote.
//! - [`Client::workers`] asks the workers what runs at this moment, [`Client::follow_task`] shows
//!   what a task prints while it does.
//! - [`Client::explain`] asks every tier why tasks are where they are, [`Client::accounting`] reads
//!   what they used, [`survey`] and [`Client::storage`] ask the nodes themselves how they are.
//! - [`Client::change`] holds, releases and forgets jobs; [`Client::retry`] makes a submission of the
//!   tasks of a job that failed.
//! - [`Client::register_read`] and [`Client::register_write`] are shared memory: registers that many
//!   clients read and write.
//! - [`find`] says which cluster is meant.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let found = client::find::Surroundings::of_process(None).find()?;
//! let client = client::Client::connect(found.addresses)?;
//! let file = client.put_bytes(b"some input".as_slice())?;
//! assert_eq!(client.get_bytes(file)?, b"some input");
//!
//! let program = client::DraftProgram::Installed(b"hostname".to_vec());
//! let work = client::Work::Command { program, arguments: Vec::new() };
//! let draft = client::Draft::new(work).check()?;
//! let job = client::new_job_id()?;
//! client.submit(client.upload(draft, job, &mut |_| {})?)?;
//! client.wait(client::logic::jobs::JobSelector::Id(job))?;
//! for output in client.task_outputs(job, proto::ids::TaskIndex(0))? {
//!     println!("{}", String::from_utf8_lossy(&client.read_output(&output)?));
//! }
//! # Ok(())
//! # }
//! ```

mod accounting;
mod blocking;
mod completion;
mod direct;
mod error;
mod explain;
pub mod find;
mod listed;
mod live;
mod local;
pub mod logic;
mod names;
mod nodes;
mod outputs;
mod registers;
mod retry;
mod ring;
mod sections;
mod service;
mod source;
mod tree;
mod upload;

pub use accounting::Accounting;
pub use blocking::{Begun, Client, MEMORY_LIMIT, PATIENCE, Page, Piece, Pieces};
pub use completion::{Closed, Pending};
pub use error::ClientError;
pub use explain::Explained;
pub use live::{Activities, FollowEvent, JobLogs, TaskEnded, TaskFollow, WorkerPlace, Workers};
pub use local::{FileProgress, Stored};
pub use names::Named;
pub use nodes::{NodeState, StorageState, survey};
pub use outputs::{OutputAt, Outputs, output_length, output_path, owned_output};
pub use retry::Retried;
pub use sections::{JobSection, Sections};
pub use tree::{Resolved, Times, TreeProgress};
pub use upload::{
    CheckedDraft, Draft, DraftError, DraftInput, DraftProgram, Extent, InputFrom, LinesFrom,
    Survey, Tasks, Work, new_job_id,
};
