//! `remuda mount`: files, names and the inputs of jobs as a folder of this machine, until interrupted.
//!
//! Responsible for the cache's place and for when it ends; what is shown is the crate `mount`'s
//! matter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::mount::{CacheError, MountConfig, MountError, MountingError, THREADS};
use client::Client;
use node::stop::Stop;

use super::connect::{Asked, connect};
use crate::failure::{During, Failure};
use crate::flags::Mount;
use crate::output;

/// Mounts at a time that share the place for caches, where nothing else is said.
const CACHES: usize = 16;

/// Shows the cluster's files at a folder until a signal comes or somebody unmounts it.
pub(crate) fn run(flags: &Mount) -> Result<(), Failure> {
    node::log::start("warn", None).map_err(|error| Failure::usage(node::log::chain(&error)))?;
    let client = Arc::new(connect(&flags.place)?);
    // A mount without a cluster would show errors only.
    client.ring().asked()?;
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let mount = match &flags.cache {
        Some(cache) => start(flags, cache, &client).map_err(|error| failure(flags, &error))?,
        None => start_with_own_cache(flags, &client)?,
    };
    let ended = stop.clone();
    mount.on_end(move || ended.request());
    let at = mount.at().display().to_string();
    eprintln!("mounted at {at}; interrupt this (Ctrl-C) to unmount it");
    output::note("files/UUID and jobs/UUID are there without being listed");
    stop.wait();
    let was_taken = !mount.is_alive();
    drop(mount);
    eprintln!("{at} is {}", if was_taken { "unmounted already" } else { "unmounted" });
    Ok(())
}

fn start(flags: &Mount, cache: &Path, client: &Arc<Client>) -> Result<::mount::Mount, MountError> {
    let config =
        MountConfig { at: &flags.dir, cache, cache_bytes: flags.cache_size, threads: THREADS };
    ::mount::Mount::start(config, Arc::clone(client))
}

/// A place for each mount of this user, the first that no other uses.
fn start_with_own_cache(flags: &Mount, client: &Arc<Client>) -> Result<::mount::Mount, Failure> {
    let caches = user_caches()?;
    for number in 1..=CACHES {
        match start(flags, &caches.join(format!("mount-{number}")), client) {
            Err(MountError::Cache(CacheError::InUse { .. })) => {}
            started => return started.map_err(|error| failure(flags, &error)),
        }
    }
    Err(Failure::usage(format!("{CACHES} mounts use the caches in {}", caches.display()))
        .hint("name another folder: --cache DIR"))
}

fn user_caches() -> Result<PathBuf, Failure> {
    let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
    caches.map(|caches| caches.join("remuda")).ok_or_else(|| {
        Failure::usage("neither XDG_CACHE_HOME nor HOME says where caches belong")
            .hint("name a folder: --cache DIR")
    })
}

fn failure(flags: &Mount, error: &MountError) -> Failure {
    let text = node::log::chain(error);
    match error {
        MountError::Mounting(MountingError::Folder { .. } | MountingError::NotAFolder { .. }) => {
            Failure::usage(text)
                .hint(format!("make an empty folder: mkdir {}", flags.dir.display()))
        }
        MountError::Mounting(MountingError::Taken { .. }) => Failure::usage(text)
            .hint(format!("unmount it: umount {}; or name another folder", flags.dir.display())),
        MountError::Mounting(MountingError::NotEmpty { .. }) => {
            Failure::usage(text).hint("a mount would hide what is in it: name an empty folder")
        }
        MountError::CacheInside { .. } | MountError::Cache(CacheError::InUse { .. }) => {
            Failure::usage(text).hint("name another folder: --cache DIR")
        }
        _ => Failure::failed(text),
    }
}
