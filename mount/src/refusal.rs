//! What an operation is refused with: one list, so that each has one errno.
//!
//! Deliberately without texts: the kernel passes on a number only. What is worth telling people is
//! logged where it happens.

use fuser::Errno;

/// Why an operation has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing has that name.
    NoEntry,
    /// Something is looked for inside of what is no folder.
    NotAFolder,
    /// A folder is read as a file.
    IsAFolder,
    /// What is no link is read as one.
    NotALink,
    /// A name that nothing can have.
    NameTooLong,
    /// Everything that would change something.
    ReadOnly,
    /// The kernel names an inode that it was not told of, or has forgotten.
    Unknown,
    /// Storage, the masters or this machine do not give it at present; the log says what.
    Unavailable,
    /// It is not what it should be, or what names it should not; the log says what.
    Failed,
}

impl Refusal {
    pub(crate) fn errno(self) -> Errno {
        match self {
            Refusal::NoEntry => Errno::ENOENT,
            Refusal::NotAFolder => Errno::ENOTDIR,
            Refusal::IsAFolder => Errno::EISDIR,
            Refusal::NotALink => Errno::EINVAL,
            Refusal::NameTooLong => Errno::ENAMETOOLONG,
            Refusal::ReadOnly => Errno::EROFS,
            Refusal::Unknown => Errno::ESTALE,
            Refusal::Unavailable | Refusal::Failed => Errno::EIO,
        }
    }
}
