//! The identity file: who a data folder belongs to and how often it was started.
//!
//! Text, so that an operator can read it, with a checksum in its last line: it is replaced as a
//! whole, so one that does not match was torn by something other than a crash and is refused.

use std::io;
use std::path::{Path, PathBuf};

use proto::ids::{ClusterId, Incarnation, NodeId, StoreId};
use proto::status::Role;
use serde::{Deserialize, Serialize};

use super::DataFolderError;
use crate::files::{self, Files};

/// Name of the file in the folder.
pub(super) const NAME: &str = "identity";

/// Version of what the file says.
const FORMAT: u32 = 1;

const CHECKSUM: &str = "checksum = ";

/// Incarnations are the upper half of connection generations.
const LAST_INCARNATION: u64 = u32::MAX as u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) tier: Role,
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    pub(super) cluster: Option<ClusterId>,
    pub(super) incarnation: Incarnation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    tier: Role,
    node: String,
    store: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    incarnation: u64,
}

/// Checks the folder's identity, or draws one for an empty folder, and counts the start. When it
/// returns, the new incarnation is durable.
pub(super) fn start(
    files: &dyn Files,
    folder: &Path,
    tier: Role,
    cluster: Option<ClusterId>,
    draw: &mut dyn FnMut() -> io::Result<u128>,
) -> Result<Identity, DataFolderError> {
    let failed = |source| DataFolderError::Io { path: folder.to_owned(), source };
    let path = folder.join(NAME);
    let mut identity = match files::read_all(files, &path) {
        Ok(bytes) => {
            decode(&bytes).map_err(|text| DataFolderError::Identity { path: path.clone(), text })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let names = files.list(folder).map_err(failed)?;
            if let Some(found) = names.into_iter().find(|name| !may_precede(name)) {
                return Err(DataFolderError::Foreign { path: folder.to_owned(), found });
            }
            Identity {
                tier,
                node: NodeId::from_random(draw().map_err(failed)?),
                store: StoreId::from_random(draw().map_err(failed)?),
                cluster,
                incarnation: Incarnation(0),
            }
        }
        Err(error) => return Err(failed(error)),
    };
    if identity.tier != tier {
        let (found, wanted) = (identity.tier, tier);
        return Err(DataFolderError::OtherTier { path: folder.to_owned(), found, wanted });
    }
    if let Some(cluster) = cluster {
        bind(folder, &mut identity, cluster)?;
    }
    if identity.incarnation.0 >= LAST_INCARNATION {
        let text = format!("it was started {} times, which is the last", identity.incarnation);
        return Err(DataFolderError::Identity { path, text });
    }
    identity.incarnation = identity.incarnation.next();
    files::replace(files, &path, &encode(&identity).map_err(failed)?).map_err(failed)?;
    Ok(identity)
}

/// Binds an identity without cluster to one, durably.
pub(super) fn join(
    files: &dyn Files,
    folder: &Path,
    identity: &mut Identity,
    cluster: ClusterId,
) -> Result<(), DataFolderError> {
    let failed = |source| DataFolderError::Io { path: folder.to_owned(), source };
    let mut joined = identity.clone();
    bind(folder, &mut joined, cluster)?;
    if joined != *identity {
        let bytes = encode(&joined).map_err(failed)?;
        files::replace(files, &folder.join(NAME), &bytes).map_err(failed)?;
        *identity = joined;
    }
    Ok(())
}

fn bind(folder: &Path, identity: &mut Identity, wanted: ClusterId) -> Result<(), DataFolderError> {
    match identity.cluster {
        Some(found) if found != wanted => {
            Err(DataFolderError::OtherCluster { path: folder.to_owned(), found, wanted })
        }
        _ => {
            identity.cluster = Some(wanted);
            Ok(())
        }
    }
}

/// What may lie in a folder that has no identity yet: the lock, what a crash left of the first
/// identity, and what whoever starts a daemon puts there for it.
fn may_precede(name: &Path) -> bool {
    let unfinished = PathBuf::from(NAME).with_extension("new");
    let by_others = name.extension().is_some_and(|kind| kind == "toml" || kind == "log");
    name == Path::new(super::LOCK) || name == unfinished || by_others
}

fn encode(identity: &Identity) -> io::Result<Vec<u8>> {
    let text = Text {
        format: FORMAT,
        tier: identity.tier,
        node: identity.node.to_string(),
        store: identity.store.to_string(),
        cluster: identity.cluster.map(|cluster| cluster.to_string()),
        incarnation: identity.incarnation.0,
    };
    let mut text = toml::to_string(&text).map_err(io::Error::other)?;
    text.insert_str(
        0,
        "# Who this data folder belongs to. Written at each start: not to be edited\n",
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{CHECKSUM}\"{checksum:08x}\"\n"));
    Ok(text.into_bytes())
}

fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let torn = || "it is torn or was edited: its checksum does not match".to_owned();
    let text = str::from_utf8(bytes).map_err(|_| torn())?;
    let (content, checksum) = text.rsplit_once(CHECKSUM).ok_or_else(torn)?;
    if checksum != format!("\"{:08x}\"\n", crc32c::crc32c(content.as_bytes())) {
        return Err(torn());
    }
    let text: Text = toml::from_str(content)
        .map_err(|error| format!("it was written by another version: {}", error.message()))?;
    if text.format != FORMAT {
        return Err(format!("it has format {}, this version knows {FORMAT}", text.format));
    }
    let not_an_id = |error: proto::ids::NotAnId| error.to_string();
    Ok(Identity {
        tier: text.tier,
        node: text.node.parse().map_err(not_an_id)?,
        store: text.store.parse().map_err(not_an_id)?,
        cluster: text.cluster.map(|id| id.parse()).transpose().map_err(not_an_id)?,
        incarnation: Incarnation(text.incarnation),
    })
}
