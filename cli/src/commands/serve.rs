//! `remuda serve`: one node of a tier, in the foreground, until it is asked to end.

use std::error::Error;
use std::path::Path;

use node::config::{ConfigError, Loaded, NodeConfig, Override};
use node::stop::Stop;
use rustix::process::{Pid, Signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{During, Failure};
use crate::flags::{Serve, Tier, VERSION};
use crate::output;

/// Runs a node of the tier that the flags name.
pub(crate) fn run(flags: &Serve) -> Result<(), Failure> {
    if let Some(parent) = flags.parent {
        end_with(parent)?;
    }
    match flags.tier {
        Tier::Master => serve(flags, |it: &master::Config| &it.node, master::run),
        Tier::Balancer => serve(flags, |it: &balancer::config::Config| &it.node, balancer::run),
        Tier::Worker => {
            serve(flags, |it: &worker::config::Config| &it.node, |it, stop| worker::run(it, &stop))
        }
        Tier::Storage => serve(flags, |it: &storage::config::Config| &it.node, storage::run),
    }
}

fn serve<C, E>(
    flags: &Serve,
    node: fn(&C) -> &NodeConfig,
    run: fn(C, Stop) -> Result<(), E>,
) -> Result<(), Failure>
where
    C: DeserializeOwned + Serialize,
    E: Error,
{
    let insecure =
        Override { flag: "--insecure".into(), key: "node.insecure".into(), value: "true".into() };
    let overrides = if flags.insecure { vec![insecure] } else { Vec::new() };
    let loaded: Loaded<C> = load(flags.config.as_deref(), &overrides)?;
    if flags.show_config {
        let text = loaded.show().during(|| "show the configuration".into())?;
        return output::print(&text);
    }
    let settings = node(&loaded.settings);
    node::log::start(&settings.log, settings.log_file.as_deref())
        .map_err(|error| Failure::usage(node::log::chain(&error)))?;
    if let Err(error) = node::descriptors::raise() {
        tracing::warn!(%error, "the limit of open descriptors stays low");
    }
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let tier = flags.tier.role();
    tracing::info!(%tier, version = VERSION, "starting");
    let log_file = settings.log_file.is_some();
    let ended = run(loaded.settings, stop);
    match &ended {
        Ok(()) => tracing::info!(%tier, "ended"),
        // Elsewhere the last words on standard error stand in the log already.
        Err(error) if log_file => tracing::error!(%tier, error = node::log::chain(error), "ended"),
        Err(_) => {}
    }
    ended.during(|| format!("run a {tier}"))
}

/// Reads the settings of a tier: file, environment, flags.
pub(crate) fn load<C: DeserializeOwned>(
    file: Option<&Path>,
    overrides: &[Override],
) -> Result<Loaded<C>, Failure> {
    node::config::load(file, &node::config::environment(), overrides).map_err(|error| {
        let failure = Failure::usage(node::log::chain(&error));
        match file {
            Some(file) if !matches!(error, ConfigError::Read { .. }) => failure
                .hint(format!("see all that is wrong: remuda config check {}", file.display())),
            _ => failure,
        }
    })
}

/// Reads the settings of a tier from a file alone.
pub(crate) fn load_file<C: DeserializeOwned>(file: &Path) -> Result<Loaded<C>, Failure> {
    node::config::load(Some(file), &[], &[])
        .map_err(|error| Failure::usage(node::log::chain(&error)))
}

/// Asks the kernel to end this process, as SIGTERM would, when the one that started it ends.
pub(crate) fn end_with(parent: u32) -> Result<(), Failure> {
    let failed = || "watch the process that started this one".into();
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).during(failed)?;
    // It may have ended before the kernel was asked.
    let is_there = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if is_there.and_then(|pid| u32::try_from(pid.get()).ok()) == Some(parent) {
        return Ok(());
    }
    Err(Failure::failed(format!("process {parent} did not start this one, or has ended")))
}
