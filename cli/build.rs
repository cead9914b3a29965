//! Tells the program which commit it is built from, where it is built inside of its repository.
//!
//! Outside of it, as from an archive, `REMUDA_COMMIT` may say so; else the program says that it
//! does not know. Deliberately does not look for uncommitted changes: a build script would have to
//! run at every build for that.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=REMUDA_COMMIT");
    let given = std::env::var("REMUDA_COMMIT").ok().filter(|it| !it.trim().is_empty());
    let text = match given.or_else(commit) {
        Some(commit) => format!("commit {}", commit.trim()),
        None => "built outside of its repository".to_owned(),
    };
    println!("cargo:rustc-env=REMUDA_BUILT_FROM={text}");
}

/// The commit that is checked out; `None` where this is no repository, or lies in another one.
fn commit() -> Option<String> {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let root = package.parent()?.canonicalize().ok()?;
    let top = PathBuf::from(git(&root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root {
        return None;
    }
    // Whatever moves to another commit writes one of these.
    for name in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(&root, &["rev-parse", "--git-path", name])?);
        // Cargo would run this every time where one is missing.
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(&root, &["rev-parse", "--short=12", "HEAD"])
}

/// What git answers; `None` where it is not there or refuses.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
