//! How a process is asked to end.
//!
//! A [`Stop`] is handed to whatever runs; whoever holds one may ask for the end, and SIGTERM,
//! SIGINT and SIGHUP do. It says *that* the process should end: how (finish what, hand back
//! what) is each tier's own logic, which gets it as one of its events. A second signal does not
//! wait for that: the process exits at once.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

type OnStop = Box<dyn FnOnce() + Send>;

/// A request to end that many may hold and wait for. Once made it stays.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requested: bool,
    on_stop: Vec<OnStop>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("requested", &self.is_requested()).finish_non_exhaustive()
    }
}

impl Stop {
    /// A token that nobody has asked to end yet and that no signal touches.
    #[must_use]
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Asks for the end: wakes whoever waits and runs what [`Stop::on_request`] registered, on
    /// this thread. Asking again does nothing.
    pub fn request(&self) {
        let mut state = self.state();
        if state.requested {
            return;
        }
        state.requested = true;
        let on_stop = std::mem::take(&mut state.on_stop);
        drop(state);
        self.shared.changed.notify_all();
        for run in on_stop {
            run();
        }
    }

    /// True from the first request on.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.state().requested
    }

    /// Runs `run` once when the end is asked for, on the thread that asks; at once where it was
    /// asked for already. Meant for waking an event loop out of its poll, so it must be short.
    pub fn on_request(&self, run: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.requested {
            drop(state);
            run();
        } else {
            state.on_stop.push(Box::new(run));
        }
    }

    /// Waits until the end is asked for.
    pub fn wait(&self) {
        let mut state = self.state();
        while !state.requested {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A token that SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal went away; not under
    /// `nohup`) request, once for the whole process. The second signal ends the process at once
    /// with 128 + its number, as a shell would report it.
    ///
    /// # Errors
    /// Where the operating system refuses a handler or a thread.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::new();
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        if !ignored_from_the_start(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let requested = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if requested.is_requested() {
                    std::process::exit(128 + signal);
                }
                tracing::info!(signal, "stopping; a second signal ends the process at once");
                requested.request();
            }
        })?;
        Ok(stop)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done where a holder panics, so the state is good.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True where whoever started this process wants it to ignore a signal, as `nohup` does. False
/// where `/proc` does not tell.
fn ignored_from_the_start(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_request_wakes_the_waiting_and_runs_each_registration_once() {
        let stop = Stop::new();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        stop.on_request(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        assert!(!stop.is_requested());
        let waiting = stop.clone();
        let waiter = std::thread::spawn(move || waiting.wait());
        stop.request();
        stop.request();
        waiter.join().unwrap();
        assert!(stop.is_requested());
        assert_eq!(runs.load(Ordering::SeqCst), 1);

        let counted = Arc::clone(&runs);
        stop.on_request(move || {
            counted.fetch_add(10, Ordering::SeqCst);
        });
        assert_eq!(runs.load(Ordering::SeqCst), 11);
    }

    /// Set for the process that a test starts: how it ends after the first signal.
    const ROLE: &str = "REMUDA_TEST_STOP";

    #[test]
    #[ignore = "is the process that the tests below start"]
    fn process_that_gets_signals() {
        let Ok(role) = std::env::var(ROLE) else {
            return;
        };
        let stop = Stop::on_signals().unwrap();
        println!("ready");
        stop.wait();
        println!("stopping");
        if role == "polite" {
            std::process::exit(0);
        }
        // Something hangs: nothing will ever request this one.
        Stop::new().wait();
    }

    struct Started {
        child: Child,
        output: BufReader<std::process::ChildStdout>,
    }

    impl Drop for Started {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    impl Started {
        fn new(role: &str) -> Started {
            Started::under(Command::new(std::env::current_exe().unwrap()), role)
        }

        fn under(mut command: Command, role: &str) -> Started {
            let mut child = command
                .args(["--exact", "stop::tests::process_that_gets_signals"])
                .args(["--ignored", "--nocapture"])
                .env(ROLE, role)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            Started { child, output }
        }

        fn expect_line(&mut self, wanted: &str) {
            let mut line = String::new();
            // The test harness may have begun a line of its own in front.
            while !line.trim_end().ends_with(wanted) {
                line.clear();
                assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "no line {wanted}");
            }
        }

        fn signal(&self, signal: rustix::process::Signal) {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, signal).unwrap();
        }
    }

    #[test]
    fn the_first_signal_asks() {
        let mut process = Started::new("polite");
        process.expect_line("ready");
        process.signal(rustix::process::Signal::TERM);
        process.expect_line("stopping");
        assert_eq!(process.child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn the_second_signal_ends_a_process_that_hangs() {
        let mut process = Started::new("hangs");
        process.expect_line("ready");
        process.signal(rustix::process::Signal::TERM);
        process.expect_line("stopping");
        process.signal(rustix::process::Signal::INT);
        assert_eq!(process.child.wait().unwrap().code(), Some(128 + SIGINT));
    }

    #[test]
    fn nohup_is_respected() {
        let mut command = Command::new("nohup");
        command.arg(std::env::current_exe().unwrap()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut process = Started::under(command, "hangs");
        process.expect_line("ready");
        process.signal(rustix::process::Signal::HUP);
        process.signal(rustix::process::Signal::TERM);
        process.expect_line("stopping");
        process.signal(rustix::process::Signal::INT);
        // Had SIGHUP counted, SIGTERM would have been the second signal.
        assert_eq!(process.child.wait().unwrap().code(), Some(128 + SIGINT));
    }
}
