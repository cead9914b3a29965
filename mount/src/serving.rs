//! A connection to the kernel from its start to its end: mounted, answered by threads of its own,
//! unmounted when it is dropped.

use std::io;
use std::path::{Path, PathBuf};

use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use node::stop::Stop;

use crate::mount::MountError;
use crate::mounting::{self, MountingError, Visible};

/// A mounted connection. Dropped, it is unmounted: whoever is in it stays in it.
pub(crate) struct Serving {
    at: PathBuf,
    device: (u32, u32),
    notifier: Notifier,
    ended: Stop,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("at", &self.at).field("device", &self.device).finish()
    }
}

impl Serving {
    /// Mounts at a folder that [`mounting::prepare`] gave, and has `filesystem` answer from now on.
    /// The kernel reads at most `read_ahead_kib` ahead.
    pub(crate) fn start(
        filesystem: impl Filesystem,
        at: PathBuf,
        threads: usize,
        read_ahead_kib: u32,
    ) -> Result<Serving, MountError> {
        let visible = Visible::by_rights();
        let kernel = mounting::mount(&at, visible)?;
        let Some(mounted) = mounting::mounted_at(&at) else {
            let why = "it is gone again".to_owned();
            return Err(MountingError::Refused { at, why }.into());
        };
        let device = mounted.device;
        let mut config = Config::default();
        config.n_threads = Some(threads.clamp(1, 16));
        config.clone_fd = true;
        let acl = match visible {
            Visible::ToAll => SessionACL::All,
            Visible::ToOwner => SessionACL::Owner,
        };
        config.acl = acl;
        let ended = Stop::new();
        let started = Session::from_fd(filesystem, kernel, acl, config)
            .map_err(MountError::Session)
            .and_then(|session| {
                let notifier = session.notifier();
                run(session, ended.clone()).map_err(MountError::Thread)?;
                Ok(notifier)
            });
        let notifier = started.inspect_err(|_| mounting::unmount_own(&at, device))?;
        mounting::set_read_ahead(device, read_ahead_kib);
        Ok(Serving { at, device, notifier, ended })
    }

    /// Where it is mounted.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Tells the kernel what to forget.
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// False once nobody answers the kernel any more, or the mount was taken away.
    pub(crate) fn is_alive(&self) -> bool {
        let stands = || mounting::mounted_at(&self.at).is_some_and(|it| it.device == self.device);
        !self.ended.is_requested() && stands()
    }

    /// Runs something when the kernel ends the connection.
    pub(crate) fn on_end(&self, run: impl FnOnce() + Send + 'static) {
        self.ended.on_request(run);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        mounting::unmount_own(&self.at, self.device);
    }
}

fn run(session: Session<impl Filesystem>, ended: Stop) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("mount-session".to_owned());
    thread.spawn(move || {
        // An end by force is an end as well.
        if let Err(error) = session.run() {
            tracing::debug!(%error, "the kernel ended the connection");
        }
        ended.request();
    })?;
    Ok(())
}
