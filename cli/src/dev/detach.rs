//! `remuda dev --detach`: starts the process that stays, and returns when its cluster answers.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{During, Failure};
use crate::flags::DevStart;
use crate::output;

const LOG: &str = "dev.log";

/// Starts the supervisor in a session of its own, waits until it says where its cluster is, and
/// says that too. What goes wrong until then it says itself, on the same standard error.
pub(crate) fn detach(flags: &DevStart) -> Result<(), Failure> {
    let executable = std::env::current_exe().during(|| "find this program".into())?;
    let mut child = Command::new(executable)
        .args(arguments(flags))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .during(|| "start the supervisor".into())?;
    let mut addresses = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut addresses).during(|| "hear from the supervisor".into())?;
    }
    if addresses.is_empty() {
        let status = child.wait().during(|| "wait for the supervisor".into())?;
        return Err(Failure::said(status.code()));
    }
    output::print(&addresses)
}

fn arguments(flags: &DevStart) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["dev".into(), "--detached".into()];
    let counts = [
        ("--masters", flags.masters),
        ("--balancers", flags.balancers),
        ("--storage", flags.storage),
        ("--workers", flags.workers),
        ("--slots", flags.slots),
    ];
    for (flag, count) in counts {
        if let Some(count) = count {
            arguments.extend([flag.into(), count.to_string().into()]);
        }
    }
    if let Some(inputs) = &flags.inputs {
        arguments.extend(["--inputs".into(), inputs.into()]);
    }
    if flags.no_restart {
        arguments.push("--no-restart".into());
    }
    arguments.extend(["--dir".into(), flags.folder.dir.clone().into()]);
    arguments
}

/// Leaves the caller's session, so that its end and its terminal's do not concern this process.
pub(crate) fn leave_session() -> Result<(), Failure> {
    rustix::process::setsid().during(|| "leave the terminal's session".into())?;
    Ok(())
}

/// Tells the waiting caller the addresses and lets go of its standard streams; from here on,
/// what would be said on standard error goes to a file in the folder.
pub(crate) fn let_go(folder: &Path, addresses: &str) -> Result<(), Failure> {
    let path = folder.join(LOG);
    let failed = || format!("open {}", path.display());
    let log = OpenOptions::new().create(true).append(true).open(&path).during(failed)?;
    let mut stdout = std::io::stdout();
    stdout
        .write_all(addresses.as_bytes())
        .and_then(|()| stdout.flush())
        .during(|| "answer whoever started this cluster".into())?;
    rustix::stdio::dup2_stderr(&log).during(failed)?;
    rustix::stdio::dup2_stdout(&log).during(failed)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::{Command, Flags};

    #[test]
    fn the_supervisor_gets_what_the_caller_asked_for() {
        let line = "remuda dev --detach --masters 1 --storage 2 --slots 4 --inputs mount \
                    --no-restart --dir a/b";
        let parse = |arguments: Vec<OsString>| {
            let Command::Dev(flags) = Flags::try_parse_from(arguments).unwrap().command else {
                panic!("another command");
            };
            flags.start
        };
        let asked = parse(line.split(' ').map(OsString::from).collect());
        let mut passed = vec![OsString::from("remuda")];
        passed.extend(arguments(&asked));
        let expected = DevStart { detach: false, detached: true, ..asked };
        assert_eq!(parse(passed), expected);
    }
}
