//! Files that are made from the catalogue and must not be stale.

use std::path::{Path, PathBuf};

use crate::{c_header, markdown};

/// A path of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository").join(path)
}

/// Compares a file of the repository with what it should hold, or writes it for `UPDATE=1`.
pub(crate) fn check(path: &str, content: &str) {
    let file = repository(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make its folder");
        std::fs::write(&file, content).unwrap_or_else(|error| panic!("write {path}: {error}"));
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let different = found.lines().zip(content.lines()).position(|(a, b)| a != b);
    assert!(
        found == content,
        "{path} is stale from line {}: run `UPDATE=1 cargo test -p proto` and review the changes",
        different.unwrap_or(found.lines().count().min(content.lines().count())) + 1
    );
}

#[test]
fn the_c_header_is_fresh() {
    check("proto/include/remuda.h", &c_header::c_header());
}

#[test]
fn the_protocol_description_is_fresh() {
    check("docs/protocol.md", &markdown::protocol());
}
