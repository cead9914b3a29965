//! The Rust client library of a Remuda cluster.
//!
//! - [`logic`] decides: how masters are found, how requests are repeated, where blocks go and come
//!   from. It is pure; the worker, the mount and the simulator drive it inside their own loops.
//! - [`Client`] is the face for programs: one thread drives the same logic over real sockets. Its
//!   `begin_…` methods return futures that any executor can await.
//! - Folders become trees and come back ([`Client::put_tree`], [`Client::get_tree`]); names point to
//!   files and trees ([`Client::set_name`]).
//! - [`find`] says which cluster is meant.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let found = client::find::Surroundings::of_process(None).find()?;
//! let client = client::Client::connect(found.addresses)?;
//! let file = client.put_bytes(b"some input".as_slice())?;
//! assert_eq!(client.get_bytes(file)?, b"some input");
//! # Ok(())
//! # }
//! ```

mod blocking;
mod completion;
mod error;
pub mod find;
pub mod logic;
mod names;
mod service;
mod source;
mod tree;

pub use blocking::{Begun, Client, MEMORY_LIMIT, PATIENCE, Page, Piece, Pieces};
pub use completion::{Closed, Pending};
pub use error::ClientError;
pub use names::Named;
pub use tree::{Resolved, Times, TreeProgress};
