//! Who a data folder says it is, read beside the daemon that has it open.
//!
//! Only `node::data_folder` writes it; what cannot be read here is as if it were not there.

use std::path::Path;

use proto::ids::{ClusterId, Incarnation, NodeId};

/// Who a data folder says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FolderIdentity {
    /// Its node.
    pub(crate) node: NodeId,
    /// Its cluster; `None` before it joined one.
    pub(crate) cluster: Option<ClusterId>,
    /// How often it was started.
    pub(crate) incarnation: Incarnation,
}

/// Reads who a data folder is; `None` where it was not made yet, or is being made.
pub(crate) fn identity_of(folder: &Path) -> Option<FolderIdentity> {
    let text = std::fs::read_to_string(folder.join("identity")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let text = |key: &str| table.get(key)?.as_str();
    Some(FolderIdentity {
        node: text("node")?.parse().ok()?,
        cluster: text("cluster").and_then(|cluster| cluster.parse().ok()),
        incarnation: Incarnation(u64::try_from(table.get("incarnation")?.as_integer()?).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use node::data_folder::DataFolder;
    use proto::status::Role;

    use super::*;

    #[test]
    fn a_folder_says_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(identity_of(folder.path()), None);
        let open = DataFolder::open(folder.path(), Role::Worker, Some(ClusterId(7))).unwrap();
        let expected = FolderIdentity {
            node: open.node(),
            cluster: Some(ClusterId(7)),
            incarnation: Incarnation(1),
        };
        assert_eq!(identity_of(folder.path()), Some(expected));
    }
}
