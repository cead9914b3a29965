//! The inputs of a job as a tree: `inputs/NAME`, where a name may have slashes.

use std::collections::BTreeMap;
use std::fmt;

use proto::ids::FileId;
use proto::limits::NAME_BYTES;

use super::tree::{Entry, FILE_MODE, FOLDER_MODE, Part, Tree, What};

/// Name of the folder in a job's folder that its inputs stand in.
pub const INPUTS: &str = "inputs";

/// Permission bits of a file that is shown as a program.
const PROGRAM_MODE: u16 = 0o755;

/// What an input is, names in the masters' keyspace resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputShown {
    /// A file.
    File {
        /// Its content.
        file: FileId,
        /// Its bytes.
        length: u64,
        /// Whether it is shown as a program.
        is_executable: bool,
    },
    /// A folder.
    Tree {
        /// Its tree file.
        tree: FileId,
        /// Bytes of the tree file.
        length: u64,
    },
}

/// Inputs that cannot stand beside each other, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotShowable {
    /// The input's name.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for NotShowable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the input {:?} {}", self.name, self.problem)
    }
}

impl std::error::Error for NotShowable {}

/// A folder that only names of inputs make.
type Given = BTreeMap<Box<[u8]>, Place>;

enum Place {
    Folder(Given),
    Input(InputShown),
}

/// A job's folder.
///
/// # Errors
/// [`NotShowable`] for a name that would climb, that is there twice, or that stands inside another
/// input.
pub fn tree_of(inputs: &[(String, InputShown)]) -> Result<Tree, NotShowable> {
    let mut folder = Given::new();
    for (name, input) in inputs {
        let refuse = |problem| NotShowable { name: name.clone(), problem };
        insert(&mut folder, name, *input).map_err(refuse)?;
    }
    let job = Given::from([(INPUTS.as_bytes().into(), Place::Folder(folder))]);
    Ok(Tree::flatten(job, |folder| folder.into_iter().map(entry).collect()))
}

fn insert(inputs: &mut Given, name: &str, input: InputShown) -> Result<(), &'static str> {
    let mut folder = inputs;
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_part = (1..=NAME_BYTES).contains(&part.len())
            && !part.contains('\0')
            && !matches!(part, "." | "..");
        if !is_part {
            return Err("has a part that no file may be called");
        }
        let key = part.as_bytes().into();
        if parts.peek().is_none() {
            if folder.contains_key(&key) {
                return Err("is there twice, or others stand inside it");
            }
            folder.insert(key, Place::Input(input));
            return Ok(());
        }
        let place = folder.entry(key).or_insert_with(|| Place::Folder(Given::new()));
        let Place::Folder(inner) = place else {
            return Err("stands inside another input");
        };
        folder = inner;
    }
    Ok(())
}

fn entry((name, place): (Box<[u8]>, Place)) -> Entry<Given> {
    let (mode, part) = match place {
        Place::Folder(inner) => (FOLDER_MODE, Part::Folder(inner)),
        Place::Input(InputShown::File { file, length, is_executable }) => {
            let mode = if is_executable { PROGRAM_MODE } else { FILE_MODE };
            (mode, Part::Leaf(What::File { file, length }))
        }
        Place::Input(InputShown::Tree { tree, length }) => {
            (FOLDER_MODE, Part::Leaf(What::Tree { tree, length }))
        }
    };
    Entry { name, mode, modified: None, part }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InputShown = InputShown::File { file: FileId(1), length: 5, is_executable: false };

    fn tree(names: &[&str]) -> Result<Tree, NotShowable> {
        let inputs: Vec<_> = names.iter().map(|name| ((*name).to_owned(), FILE)).collect();
        tree_of(&inputs)
    }

    #[test]
    fn names_with_slashes_make_folders() {
        let program = InputShown::File { file: FileId(2), length: 6, is_executable: true };
        let data = InputShown::Tree { tree: FileId(3), length: 70 };
        let inputs =
            [("z/run".to_owned(), program), ("a".to_owned(), FILE), ("z/b/data".to_owned(), data)];
        let tree = tree_of(&inputs).unwrap();
        let at = |path: &[&str]| {
            path.iter().try_fold(0, |folder, part| tree.child(folder, part.as_bytes()))
        };
        assert_eq!(tree.children(0).unwrap().len(), 1);
        let run = tree.item(at(&["inputs", "z", "run"]).unwrap()).unwrap();
        assert_eq!((run.mode, &run.what), (0o755, &What::File { file: FileId(2), length: 6 }));
        let a = tree.item(at(&["inputs", "a"]).unwrap()).unwrap();
        assert_eq!(a.mode, 0o644);
        let data = tree.item(at(&["inputs", "z", "b", "data"]).unwrap()).unwrap();
        assert_eq!(data.what, What::Tree { tree: FileId(3), length: 70 });
        assert_eq!(at(&["inputs", "b"]), None);
    }

    #[test]
    fn a_job_without_inputs_has_an_empty_folder() {
        let tree = tree(&[]).unwrap();
        let inputs = tree.child(0, b"inputs").unwrap();
        assert!(tree.children(inputs).unwrap().is_empty());
    }

    #[test]
    fn what_would_climb_or_collide_is_refused() {
        let longest = "n".repeat(NAME_BYTES);
        assert!(tree(&[&longest, "a/a/a", "a/b"]).is_ok());
        for names in [
            &[""][..],
            &["/a"],
            &["a/"],
            &["a//b"],
            &["."],
            &["a/../b"],
            &["a\0"],
            &[&format!("{longest}n")],
            &["a", "a"],
            &["a", "a/b"],
            &["a/b", "a"],
        ] {
            let refused = tree(names).unwrap_err();
            assert!(refused.to_string().starts_with("the input "), "{refused}");
        }
    }
}
