//! Who a member's folder belongs to: cluster, member, and the log's shape.
//!
//! The file is written last when a folder is made, so its presence says that the folder is whole;
//! a folder without it never votes. It does not change afterwards. That no two processes use one
//! folder is the business of `node::data_folder` and its lock.

use std::path::Path;

use proto::ids::ClusterId;

use crate::ids::MemberId;
use crate::log::LogShape;

pub(crate) const FILE: &str = "identity";

const FORMAT: u64 = 1;

/// Bytes of a log file: a few seconds of heavy load, so that making one is rare (eyeballed).
const LOG_FILE_BYTES: u32 = 16 << 20;

/// What a member's folder is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The log's.
    pub shape: LogShape,
}

impl Identity {
    /// A new member of a cluster, drawn from random bits.
    #[must_use]
    pub fn new(cluster: ClusterId, member: MemberId, random: u128) -> Identity {
        let seed = (random ^ (random >> 64)) as u32;
        Identity { cluster, member, shape: LogShape { seed, file_bytes: LOG_FILE_BYTES } }
    }

    /// Text, so that an operator can read it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = format!(
            "format = {FORMAT}\ncluster = {}\nmember = {}\nlog_seed = {}\nlog_file_bytes = {}\n",
            self.cluster, self.member, self.shape.seed, self.shape.file_bytes
        );
        let check = crc32c::crc32c(body.as_bytes());
        format!("{body}checksum = {check}\n").into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Identity, String> {
        let wrong = |text: &str| format!("{}: {text}", path.display());
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("not text"))?;
        let (body, check) = text.rsplit_once("checksum = ").ok_or_else(|| wrong("no checksum"))?;
        if check.trim_end().parse() != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(wrong("the checksum does not match what the file says"));
        }
        let field = |name: &str| {
            body.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
                .ok_or_else(|| wrong(&format!("{name} is missing")))
        };
        let number = |name: &str| {
            field(name)?.parse::<u64>().map_err(|_| wrong(&format!("{name} is not a number")))
        };
        let small = |name: &str| {
            u32::try_from(number(name)?).map_err(|_| wrong(&format!("{name} is too large")))
        };
        if number("format")? != FORMAT {
            return Err(wrong("another version of this program made it"));
        }
        let cluster = field("cluster")?.parse().map_err(|_| wrong("cluster is not a UUID"))?;
        let shape = LogShape { seed: small("log_seed")?, file_bytes: small("log_file_bytes")? };
        Ok(Identity { cluster, member: MemberId(number("member")?), shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_encoding_and_a_changed_one_is_refused() {
        let identity = Identity::new(ClusterId(77), MemberId(12), 1 << 90 | 5);
        let bytes = identity.encode();
        let path = Path::new("identity");
        assert_eq!(Identity::decode(&bytes, path), Ok(identity));
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Identity::decode(&changed, path).is_err(), "byte {at}");
        }
    }
}
