//! What a starting cluster still lacks, by what its masters say and its folders are.

use std::path::Path;

use client::logic::answers::NodeSummary;
use proto::status::Role;

use super::plan::Plan;
use crate::identity::identity_of;

/// What the cluster still lacks before it answers: every node of the plan registered since its last
/// start, a leading master and a primary balancer. Empty where nothing does.
pub(crate) fn lacks(plan: &Plan, folder: &Path, nodes: &[NodeSummary]) -> Vec<String> {
    let mut lacks = Vec::new();
    for planned in &plan.processes {
        let known = identity_of(&Plan::folder_of(folder, planned)).is_some_and(|identity| {
            let same = |it: &&NodeSummary| it.node == identity.node;
            let found = nodes.iter().find(same);
            found.is_some_and(|it| it.incarnation == identity.incarnation)
        });
        if !known {
            lacks.push(planned.name());
        }
    }
    for (role, what) in [(Role::Master, "a leader"), (Role::Balancer, "a primary balancer")] {
        if !nodes.iter().any(|it| it.role == role && it.leads) {
            lacks.push(what.into());
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use node::data_folder::DataFolder;
    use proto::ids::LogIndex;

    use super::*;
    use crate::flags::DevStart;

    #[test]
    fn a_cluster_answers_when_all_are_there_since_their_last_start_and_both_lead() {
        let outer = tempfile::tempdir().unwrap();
        let flags = DevStart {
            masters: Some(1),
            balancers: Some(1),
            storage: Some(1),
            workers: Some(1),
            ..DevStart::default()
        };
        let plan = Plan::settle(None, &flags).unwrap();
        let mut nodes = Vec::new();
        for planned in &plan.processes {
            let folder = Plan::folder_of(outer.path(), planned);
            let open = DataFolder::open(&folder, planned.tier, None).unwrap();
            nodes.push(NodeSummary {
                node: open.node(),
                role: planned.tier,
                incarnation: open.incarnation(),
                leads: false,
                group: 1,
                slot_count: 1,
                index: LogIndex(1),
                address: planned.listen.clone(),
                telemetry_address: planned.telemetry.clone(),
                zone: String::new(),
            });
        }
        let lacking = |nodes: &[NodeSummary]| lacks(&plan, outer.path(), nodes);
        assert_eq!(lacking(&nodes), ["a leader", "a primary balancer"]);
        nodes.iter_mut().for_each(|it| it.leads = it.role != Role::Worker);
        assert!(lacking(&nodes).is_empty());
        let worker = plan.of(Role::Worker).next().unwrap();
        let folder = Plan::folder_of(outer.path(), worker);
        drop(DataFolder::open(&folder, Role::Worker, None).unwrap());
        assert_eq!(lacking(&nodes), ["worker-1"]);
    }
}
