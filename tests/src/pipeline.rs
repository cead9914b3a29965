//! The second kind of simulated cluster: all tiers around three masters, running jobs.
//!
//! Says which processes there are, which jobs are submitted, and which record is lost where a
//! scenario loses exactly one.

use ::client::logic::jobs::Change;
use fastrand::Rng;
use proto::description::Noop;
use proto::ids::{ClusterId, JobId};
use proto::limits::BLOCK_BYTES;
use proto::record::Records;
use proto::status::RingAction;
use proto::time::Duration;

use crate::process::files::FileWish;
use crate::process::jobs::JobPlan;
use crate::process::rings::Order;
use crate::process::{Recipe, Start};
use crate::random::{chance, span};

/// The cluster that all processes of a run belong to.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5e1f);

/// Addresses of so many masters.
pub(crate) fn masters(count: usize) -> Vec<String> {
    (0..count).map(|place| Recipe::Master { place }.address()).collect()
}

/// What a data folder knows of its cluster: nothing in the first life of its machine.
pub(crate) fn cluster_of(start: &Start<'_>) -> ClusterId {
    if start.has_folder { CLUSTER } else { ClusterId(0) }
}

/// The processes of a cluster.
pub(crate) fn cluster(rng: &mut Rng) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = (0..3).map(|place| Recipe::Master { place }).collect();
    let storage_count = [0, 1, 2, 2, 3, 3, 3, 3][rng.usize(0..8)];
    recipes.extend((0..storage_count).map(storage));
    // Two are one group, three a pair and one alone, four two pairs.
    let balancer_count = [2, 2, 2, 3, 3, 4][rng.usize(0..6)];
    recipes.extend((0..balancer_count).map(|place| Recipe::Balancer { place }));
    for place in 0..rng.usize(2..=4) {
        recipes.push(worker(place, [1, 2, 4][rng.usize(0..3)]));
    }
    for place in 0..2 {
        let jobs = (0..2).map(|number| plan(rng, place, number, storage_count > 0)).collect();
        recipes.push(Recipe::JobClient { place, jobs, is_curious: false });
    }
    let (after, pause) = (Duration::from_secs(1), Duration::from_millis(150));
    let fold_at = if storage_count > 0 { [0, 4, 8, 16][rng.usize(0..4)] } else { 0 };
    recipes.push(Recipe::KeyClient { place: 0, after, pause, count: 400, fold_at });
    if storage_count > 0 {
        recipes.extend(readers(wishes(rng), storage_count));
    }
    if storage_count > 1 {
        recipes.extend(ring_changes(rng, storage_count));
    }
    recipes
}

/// A storage node that joins late, and who changes the ring meanwhile.
fn ring_changes(rng: &mut Rng, storage_count: usize) -> Vec<Recipe> {
    let mut recipes = Vec::new();
    let at = |rng: &mut Rng| span(rng, Duration::from_secs(5), Duration::from_secs(55));
    if chance(rng, 500) {
        recipes.push(Recipe::Storage { place: storage_count, after: at(rng) });
    }
    let is_forced = chance(rng, 300);
    let order = |after, action, place| Order { after, action, place, is_forced };
    let mut orders = Vec::new();
    // Of two nodes none leaves: a block would have a single replica for a while.
    if storage_count > 2 && chance(rng, 600) {
        let place = Some(rng.usize(0..storage_count));
        let (after, back) = (at(rng), at(rng));
        let leave = if chance(rng, 700) { RingAction::Drain } else { RingAction::Remove };
        let leave = Order { is_forced: true, ..order(after, leave, place) };
        orders.extend([leave, order(after.max(back), RingAction::Add, place)]);
    }
    for action in [RingAction::Rebalance, RingAction::Scrub] {
        if chance(rng, 400) {
            orders.push(order(at(rng), action, None));
        }
    }
    if !orders.is_empty() {
        recipes.push(Recipe::RingClient { place: 0, orders });
    }
    recipes
}

/// A storage node that is there from the beginning.
fn storage(place: usize) -> Recipe {
    Recipe::Storage { place, after: Duration::ZERO }
}

/// A small cluster of storage nodes and somebody who stores two files.
pub(crate) fn storing(rng: &mut Rng, storage_count: usize) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = (0..3).map(|place| Recipe::Master { place }).collect();
    recipes.extend((0..storage_count).map(storage));
    recipes.extend(readers(two_files(rng), storage_count));
    recipes
}

/// A worker that is well.
pub(crate) fn worker(place: usize, slot_count: u32) -> Recipe {
    Recipe::Worker { place, slot_count, is_ill: false }
}

/// Who puts the files and reads them, and somebody else who reads them.
fn readers(files: Vec<FileWish>, node_count: usize) -> [Recipe; 2] {
    let foreign = Recipe::ForeignClient { place: 0, files: files.clone(), node_count };
    [Recipe::FileClient { place: 0, files }, foreign]
}

/// One early, one later.
fn two_files(rng: &mut Rng) -> Vec<FileWish> {
    let wish = |(seconds, length)| FileWish {
        after: Duration::from_secs(seconds),
        seed: rng.u64(..),
        length,
    };
    [(5, 40_000), (15, 400_000)].map(wish).to_vec()
}

/// Files of all sizes that matter: none, one block in a volume, one with a file of its own, and in
/// some runs more than one block.
fn wishes(rng: &mut Rng) -> Vec<FileWish> {
    let mut lengths: Vec<usize> = (0..8)
        .map(|_| {
            let most = [1, 500, 20_000, 200_000][rng.usize(0..4)];
            rng.usize(0..most)
        })
        .collect();
    lengths.push(rng.usize(300_000..600_000));
    if chance(rng, 250) {
        lengths.push(BLOCK_BYTES + rng.usize(1..200_000));
    }
    let (low, high) = (Duration::from_secs(1), Duration::from_secs(55));
    let wish = |length| FileWish { after: span(rng, low, high), seed: rng.u64(..), length };
    lengths.into_iter().map(wish).collect()
}

/// A cluster in which every part of the pipeline is used, with jobs of this many tasks.
pub(crate) fn small(rng: &mut Rng, task_count: u64) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = (0..3).map(|place| Recipe::Master { place }).collect();
    recipes.extend((0..2).map(storage));
    recipes.extend((0..2).map(|place| Recipe::Balancer { place }));
    recipes.extend((0..3).map(|place| worker(place, 2)));
    let noop = Noop {
        seed: rng.u64(..),
        shortest: Duration::from_millis(10),
        longest: Duration::from_millis(200),
        failed_per_million: 20_000,
        output_bytes: 0,
    };
    let job = |place: usize| {
        let id = JobId(7 << 64 | place as u128);
        let after = Duration::from_secs(6 + 2 * place as u64);
        // What the tasks of the other one wrote is accounting alone.
        let noop = Noop { output_bytes: [20, 0][place], ..noop };
        JobPlan { retries: 1, ..JobPlan::new(id, after, noop, task_count) }
    };
    // So short that several wait in a worker, and alone, so that another one idles at its end and
    // some are taken back.
    let short = Noop { shortest: Duration(100), longest: Duration::from_millis(4), ..noop };
    let (id, after) = (JobId(7 << 64 | 2), Duration::from_secs(40));
    let short = JobPlan { retries: 1, ..JobPlan::new(id, after, short, 4 * task_count) };
    for (place, jobs) in [vec![job(0)], vec![job(1), short]].into_iter().enumerate() {
        recipes.push(Recipe::JobClient { place, jobs, is_curious: place == 0 });
    }
    recipes.extend(readers(two_files(rng), 2));
    recipes
}

/// A job; its tasks may write something where there is somebody to store it.
fn plan(rng: &mut Rng, place: usize, number: u128, may_write: bool) -> JobPlan {
    // Of some jobs the tasks take no time, of others so long that they outlast the faults.
    // Four thousand tasks in as few as two slots must fit the time after healing.
    let longest = Duration::from_millis([0, 5, 40, 80][rng.usize(0..4)]);
    let job = JobId(u128::from(rng.u64(..)) << 64 | (place as u128) << 8 | number);
    let after = span(rng, Duration::from_secs(1), Duration::from_secs(40));
    let noop = Noop {
        seed: rng.u64(..),
        shortest: Duration(longest.0 / 10),
        longest,
        failed_per_million: [0, 0, 10_000, 300_000][rng.usize(0..4)],
        output_bytes: if may_write { [0, 0, 0, 20, 300][rng.usize(0..5)] } else { 0 },
    };
    let retries = rng.u32(0..3);
    JobPlan {
        retries,
        changes: changes(rng),
        is_forgotten: chance(rng, 250),
        ..JobPlan::new(job, after, noop, 1_000)
    }
}

/// What a user changes of a job while it waits or works.
fn changes(rng: &mut Rng) -> Vec<(Duration, Change)> {
    let mut changes = Vec::new();
    let ms = Duration::from_millis;
    if chance(rng, 300) {
        let held = span(rng, Duration::ZERO, ms(3_000));
        let released = held + span(rng, ms(100), ms(6_000));
        changes.extend([(held, Change::Hold), (released, Change::Release)]);
    }
    if chance(rng, 300) {
        let after = span(rng, Duration::ZERO, ms(5_000));
        changes.push((after, Change::Priority(rng.i32(-5..=5))));
    }
    changes.sort_by_key(|(after, _)| *after);
    changes
}

/// One record that gets lost on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    message_type: u8,
    /// So many of the type arrive before.
    left: u64,
    /// Whether it was lost.
    pub(crate) is_over: bool,
}

impl Loss {
    /// The record of this type that arrives `nth`, from 1.
    pub(crate) fn of(message_type: u8, nth: u64) -> Loss {
        Loss { message_type, left: nth.saturating_sub(1), is_over: false }
    }

    /// What arrives of a frame.
    pub(crate) fn filter(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if self.is_over {
            return frame;
        }
        let mut at = 0;
        for record in Records::of(&frame) {
            let Ok(record) = record else { return frame };
            let length = record.length();
            if record.message_type() == self.message_type {
                if self.left == 0 {
                    self.is_over = true;
                    return [&frame[..at], &frame[at + length..]].concat();
                }
                self.left -= 1;
            }
            at += length;
        }
        frame
    }
}
