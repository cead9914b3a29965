//! Names of files and trees: setting, following, listing and removing them.
//!
//! What a name and its value look like is [`proto::name`]'s matter.

use proto::ids::LogIndex;
use proto::name::{self, Pointer};

use crate::blocking::{Client, Page};
use crate::error::ClientError;
use crate::logic::answers::KeyValue;
use crate::logic::jobs::{Compare, Write};

/// A name and what it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// What it points to.
    pub pointer: Pointer,
    /// Log index of its last change.
    pub version: LogIndex,
}

impl Client {
    /// Points a name to a file or tree, whatever it pointed to before.
    ///
    /// # Errors
    /// [`ClientError::Name`] for what may be no name, and those of [`Client::transact`].
    pub fn set_name(&self, name: &str, pointer: Pointer) -> Result<(), ClientError> {
        let write = Write { key: name::key(name)?, value: Some(pointer.encode()) };
        match self.transact(Vec::new(), vec![write])? {
            Some(_) => Ok(()),
            // A transaction without conditions is always applied.
            None => Err(ClientError::OtherAnswer),
        }
    }

    /// What a name points to.
    ///
    /// # Errors
    /// [`ClientError::NoName`] where there is none; [`ClientError`].
    pub fn name(&self, name: &str) -> Result<Named, ClientError> {
        let key = name::key(name)?;
        // Among the keys that begin so, the key itself is the first.
        let first = self.keys(&key, &[], 1)?.items.into_iter().next();
        match first.filter(|it| it.key == key) {
            Some(found) => named(&found),
            None => Err(ClientError::NoName { name: name.to_owned() }),
        }
    }

    /// Names that begin so, in order of their bytes, behind another one (empty for the first).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn names(
        &self,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Page<Named, String>, ClientError> {
        let key = |name: &str| [name::PREFIX, name.as_bytes()].concat();
        let after = if after.is_empty() { Vec::new() } else { key(after) };
        let page = self.keys(&key(prefix), &after, limit)?;
        let items: Vec<Named> = page.items.iter().map(named).collect::<Result<_, _>>()?;
        let next = items.last().filter(|_| page.next.is_some()).map(|it| it.name.clone());
        Ok(Page { items, next })
    }

    /// Removes a name; what it points to stays.
    ///
    /// # Errors
    /// [`ClientError::NoName`] where there is none, [`ClientError::NameChanged`] where somebody
    /// else set it meanwhile.
    pub fn remove_name(&self, name: &str) -> Result<(), ClientError> {
        let found = self.name(name)?;
        let key = name::key(name)?;
        let compare = Compare { key: key.clone(), version: found.version };
        match self.transact(vec![compare], vec![Write { key, value: None }])? {
            Some(_) => Ok(()),
            None => Err(ClientError::NameChanged { name: name.to_owned() }),
        }
    }
}

fn named(found: &KeyValue) -> Result<Named, ClientError> {
    let name = name::of_key(&found.key).ok_or(ClientError::OtherAnswer)?.to_owned();
    let pointer = Pointer::decode(&found.value)?;
    Ok(Named { name, pointer, version: found.version })
}

#[cfg(test)]
mod tests {
    use proto::ids::FileId;

    use super::*;

    #[test]
    fn a_key_with_its_value_is_a_name_or_an_error() {
        let pointer = Pointer { is_tree: false, file: FileId(3), length: 4 };
        let key = name::key("data").unwrap();
        let good = KeyValue { key, value: pointer.encode(), version: LogIndex(9) };
        let wanted = Named { name: "data".to_owned(), pointer, version: LogIndex(9) };
        assert_eq!(named(&good).unwrap(), wanted);
        let newer = KeyValue { value: b"\x02".to_vec(), ..good.clone() };
        assert!(matches!(named(&newer), Err(ClientError::Name(_))));
        let other = KeyValue { key: b"name/a/b".to_vec(), ..good };
        assert!(matches!(named(&other), Err(ClientError::OtherAnswer)));
    }
}
