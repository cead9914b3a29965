//! Folders and names on a real cluster: what is stored comes back as it was.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::cluster::Cluster;

const SMALL: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "0"];

/// A folder of real sources, and of everything that a folder may hold.
pub(crate) fn make_folder(folder: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let copied = Command::new("cp").arg("-a").arg(sources).arg(folder).status().expect("run cp");
    assert!(copied.success());
    let write = |name: &[u8], content: &[u8], mode: u32| {
        let path = folder.join(OsStr::from_bytes(name));
        std::fs::write(&path, content).expect("make it");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("make it");
    };
    write(b"empty file", b"", 0o644);
    write(b"raw \xff\xfe bytes", b"raw", 0o600);
    write(b"line\nbreak", b"two lines", 0o640);
    write(b"-n", b"like a flag", 0o444);
    write(b"program", b"#!/bin/sh\necho hello\n", 0o755);
    write("n".repeat(255).as_bytes(), b"longest", 0o644);
    let large: Vec<u8> = (0..9_500_000u32).map(|at| (at % 251) as u8).collect();
    write(b"large", &large, 0o644);
    for inner in ["a/b/c", "empty", "closed"] {
        std::fs::create_dir_all(folder.join(inner)).expect("make it");
    }
    // A folder whose list is long enough for a tree file of its own, with another one inside.
    std::fs::create_dir_all(folder.join("wide/inner")).expect("make it");
    std::fs::write(folder.join("wide/inner/file"), "deep").expect("make it");
    for number in 0..300 {
        symlink("t".repeat(4_000), folder.join(format!("wide/{number}"))).expect("make it");
    }
    std::fs::write(folder.join("closed/file"), "inside").expect("make it");
    std::fs::set_permissions(folder.join("closed"), PermissionsExt::from_mode(0o555))
        .expect("make it");
    for (target, link) in [
        ("program", "link"),
        ("../../etc/passwd", "a/out"),
        ("/absolute", "a/b/abs"),
        (".", "self"),
    ] {
        symlink(target, folder.join(link)).expect("make it");
    }
}

/// Every path with its kind, mode and link target, sorted, and the digest of every file.
pub(crate) fn describe(folder: &Path) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let lines = |script: &str| {
        let output =
            Command::new("sh").args(["-c", script]).current_dir(folder).output().expect("run sh");
        assert!(output.status.success(), "{output:?}");
        let mut lines: Vec<Vec<u8>> =
            output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    (
        lines(r"find . -mindepth 1 -printf '%P %y %m %l\0'"),
        lines("find . -type f -print0 | xargs -0 sha256sum -z --"),
    )
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    let folder = place.join("folder");
    std::fs::create_dir(&folder).unwrap();
    make_folder(&folder);
    let wanted = describe(&folder);
    assert!(wanted.0.len() > 50, "a real folder has many files: {}", wanted.0.len());

    let source = cluster.run(&["put", "folder", "data"]).ok();
    let source = source.trim();
    assert_eq!(cluster.run(&["put", "folder"]).ok().trim(), source, "equal folders are one tree");
    cluster.run(&["get", "name:data", "copy"]).ok();
    assert_eq!(describe(&place.join("copy")), wanted);
    cluster.run(&["get", source]).ok();
    let unnamed = place.join(source.strip_prefix("file:").unwrap());
    assert_eq!(describe(&unnamed), wanted);

    // A part of it: a folder, a file into a folder, a file to standard output.
    cluster.run(&["get", "name:data/proto/src/tree/", "part"]).ok();
    assert_eq!(describe(&place.join("part")), describe(&folder.join("proto/src/tree")));
    cluster.run(&["get", "name:data/wide", "wide"]).ok();
    assert_eq!(describe(&place.join("wide")), describe(&folder.join("wide")));
    assert_eq!(cluster.run(&["cat", "name:data/wide/inner/file"]).ok(), "deep");
    std::fs::create_dir(place.join("into")).unwrap();
    cluster.run(&["get", "name:data/large", "into"]).ok();
    let large = std::fs::read(folder.join("large")).unwrap();
    assert!(std::fs::read(place.join("into/large")).unwrap() == large);
    let within = format!("{source}/program");
    assert_eq!(cluster.run(&["cat", &within]).ok(), "#!/bin/sh\necho hello\n");

    // With times, each file has its own again.
    let old = std::fs::File::options().write(true).open(folder.join("program")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    old.set_modified(time).unwrap();
    cluster.run(&["put", "--times", "folder", "timed"]).ok();
    cluster.run(&["get", "name:timed", "timed"]).ok();
    for inner in ["program", "proto/src/lib.rs", "closed", "empty", "link"] {
        let of = |folder: &Path| {
            let metadata = folder.join(inner).symlink_metadata().unwrap();
            (metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(of(&place.join("timed")), of(&folder), "{inner}");
    }
    // What nobody may write into, nobody but root could remove.
    let opened = Command::new("chmod").args(["-R", "u+w"]).arg(place).status().unwrap();
    assert!(opened.success());
}

#[test]
fn names_are_set_listed_moved_and_removed() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    std::fs::create_dir_all(place.join("folder/inner")).unwrap();
    std::fs::write(place.join("folder/file"), "12345").unwrap();
    std::fs::write(place.join("one"), "one").unwrap();
    symlink("file", place.join("folder/link")).unwrap();
    let one = cluster.run(&["put", "one", "first"]).ok();
    cluster.run(&["put", "folder", "second"]).ok();
    assert_eq!(cluster.run(&["cat", "name:first"]).ok(), "one");

    let names = |arguments: &[&str]| -> Vec<String> {
        let list = cluster.run(&[arguments, &["--json"]].concat()).json();
        let name = |it: &serde_json::Value| format!("{} {}", it["name"], it["kind"]);
        list.as_array().unwrap().iter().map(|it| name(it).replace('"', "")).collect()
    };
    assert_eq!(names(&["ls"]), ["first file", "second tree"]);
    assert_eq!(names(&["ls", "s"]), ["second tree"]);
    assert_eq!(names(&["ls", "name:second"]), ["file file", "inner folder", "link link"]);
    assert!(names(&["ls", "name:second/inner"]).is_empty());
    let table = cluster.run(&["ls", "f"]).ok();
    assert_eq!(table, format!("NAME   KIND  BYTES  SOURCE\nfirst  file  3      {one}"));

    // A name is a pointer: it leads to something else from then on.
    std::fs::write(place.join("one"), "another").unwrap();
    cluster.run(&["put", "one", "first"]).ok();
    assert_eq!(cluster.run(&["cat", "name:first"]).ok(), "another");
    assert_eq!(cluster.run(&["cat", one.trim()]).ok(), "one");
    cluster.run(&["rm", "first"]).ok();
    assert_eq!(names(&["ls"]), ["second tree"]);

    let socket = std::os::unix::net::UnixListener::bind(place.join("folder/socket")).unwrap();
    for (arguments, exit, said) in [
        (&["put", "folder"][..], 1, "folder/socket is a socket"),
        (&["put", "absent", "name"], 2, "absent"),
        (&["put", "one", "../climb"], 2, "is no name"),
        (&["put", "one", ".."], 2, "is no name"),
        (&["cat", "name:first"], 1, "there is no name \"first\""),
        (&["rm", "first"], 1, "there is no name \"first\""),
        (&["get", "name:second/../second"], 2, "has a part . or .."),
        (&["get", "name:second/absent"], 1, "there is nothing at"),
        (&["get", "name:second/file/deeper"], 1, "there is nothing at"),
        (&["cat", "name:second"], 1, "is a folder"),
        (&["cat", "name:second/link"], 1, "links in a tree are not followed"),
        (&["get", "name:second", "one"], 2, "exists already"),
        (&["get", "name:second", "absent/to"], 2, "there is no folder absent"),
    ] {
        let found = cluster.run(arguments);
        assert_eq!(found.exit, exit, "{found:?}");
        assert!(found.stderr.starts_with("error: "), "{found:?}");
        assert!(found.stderr.contains(said), "{said}: {found:?}");
    }
    drop(socket);
    assert_eq!(std::fs::read_to_string(place.join("one")).unwrap(), "another");
}
