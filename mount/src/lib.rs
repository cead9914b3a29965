//! The file tree as FUSE: `files/<uuid>`, `names/<name>/…`, `jobs/<job>/inputs/NAME/…`, read-only,
//! fetched block by block as it is read.
//!
//! - [`logic`] decides: what an inode is and when it is forgotten, what a job's folder looks like,
//!   what is read ahead, what goes first where room is short.
//! - `fuse` is what the kernel asks, `view` what a path means, `files` trees and ranges of bytes,
//!   `blocks` where a block comes from, `cache` this machine's disk, `origin` the cluster,
//!   `mounting` the system calls.
//! - [`Mount`] is all of it, from start to end; `serving` is a connection of any kind.
//! - [`Images`] shows inputs as file systems of the kernel, which `erofs` mounts from files that a
//!   connection of its own serves.
//!
//! Unlike a daemon it has no one loop: the kernel is heard by several threads, which answer what is
//! known and leave the rest to others, so that nothing that waits for a cluster holds up what does
//! not. The only crate that knows `fuser`.

mod blocks;
mod cache;
mod erofs;
mod files;
mod fuse;
mod images;
pub mod logic;
mod mount;
mod mounting;
mod origin;
mod refusal;
mod serving;
mod view;
mod workers;

pub use cache::CacheError;
pub use images::{Images, ImagesError, NotShown, TREES, clean_trees};
pub use logic::inputs::{InputShown, NotShowable};
pub use mount::{Mount, MountConfig, MountCounters, MountError, THREADS, can_mount};
pub use mounting::{MountingError, clean};
