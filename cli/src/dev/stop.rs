//! `remuda dev stop`: ends a local cluster and waits until it is gone.

use std::path::Path;

use super::lock::Holder;
use crate::failure::Failure;

/// More than the supervisor gives its processes altogether.
const PATIENCE_SECONDS: u32 = 60;

/// Ends the cluster of a folder. One that does not run is left as it is.
pub(crate) fn stop(folder: &Path) -> Result<(), Failure> {
    super::plan_of(folder)?;
    let Some(holder) = Holder::find(folder) else {
        eprintln!("the cluster in {} does not run", folder.display());
        return Ok(());
    };
    holder.ask_to_end()?;
    if holder.wait(PATIENCE_SECONDS) {
        return Ok(());
    }
    let text = format!("process {} does not end within {PATIENCE_SECONDS} s", holder.pid);
    Err(Failure::failed(text)
        .hint(format!("kill it: kill -9 {}; its processes follow", holder.pid)))
}
