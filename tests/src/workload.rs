//! What users do in a run: how many clients there are and how they move money.

use fastrand::Rng;
use proto::time::Duration;

use crate::bank::{ACCOUNTS, Transfer, WINDOW};
use crate::process::Recipe;
use crate::process::client::Plan;

/// The processes of a cluster.
pub(crate) fn cluster(rng: &mut Rng) -> Vec<Recipe> {
    let members = (0..3).map(|place| Recipe::Member { place });
    let clients = rng.usize(2..=5);
    let plans: Vec<Plan> = (0..clients).map(|_| plan(rng)).collect();
    let clients = plans.into_iter().enumerate();
    members.chain(clients.map(|(place, plan)| Recipe::Client { place, plan })).collect()
}

fn plan(rng: &mut Rng) -> Plan {
    Plan {
        window: [1, 2, WINDOW][rng.usize(0..3)],
        pause: Duration::from_millis([20, 60, 200][rng.usize(0..3)]),
        largest: [10, 300, 1500][rng.usize(0..3)],
    }
}

/// The next wish of a client.
pub(crate) fn transfer(rng: &mut Rng, client: u64, number: u64, largest: u64) -> Transfer {
    Transfer {
        client,
        number,
        from: rng.u64(0..ACCOUNTS),
        to: rng.u64(0..ACCOUNTS),
        amount: rng.u64(0..=largest),
    }
}
