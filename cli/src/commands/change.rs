//! What is done to a job after its submission: hold, release, priority, forget.

use client::Client;
use client::logic::jobs::{Change, JobSelector};
use proto::ids::JobId;

use super::connect::{Asked, connect};
use super::jobs::{selector, show};
use crate::failure::Failure;
use crate::flags::{ChangeJob, Forget, Listing, Priority};

/// `remuda hold`.
pub(super) fn hold(flags: &ChangeJob) -> Result<(), Failure> {
    change(&flags.job, Change::Hold, &flags.listing)
}

/// `remuda release`.
pub(super) fn release(flags: &ChangeJob) -> Result<(), Failure> {
    change(&flags.job, Change::Release, &flags.listing)
}

/// `remuda priority`.
pub(super) fn priority(flags: &Priority) -> Result<(), Failure> {
    change(&flags.job, Change::Priority(flags.priority), &flags.listing)
}

/// `remuda forget`.
pub(super) fn forget(flags: &Forget) -> Result<(), Failure> {
    change(&flags.job, Change::Forget, &flags.listing)
}

/// Changes a job and shows its state then.
fn change(job: &str, change: Change, flags: &Listing) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let job = one(&client, &selector(job))?;
    show(&client.change(job, change).asked()?, flags.json)
}

/// The UUID of a job that is meant.
pub(super) fn one(client: &Client, job: &JobSelector) -> Result<JobId, Failure> {
    match job {
        JobSelector::Id(job) => Ok(*job),
        text @ JobSelector::Text(_) => Ok(client.status(text.clone()).asked()?.job),
    }
}
