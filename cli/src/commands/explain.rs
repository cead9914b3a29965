//! `remuda explain`: why a job or a task is where it is, in words, with what to do about it.
//!
//! The one place that has the words: nodes send a reason, a number and the node that it is about.

use client::logic::answers::NodeSummary;
use client::logic::explain::Told;
use client::{ClientError, Explained};
use node::clock::time_of_day;
use proto::ids::{NodeId, TaskIndex};
use proto::status::{Cause, JobState, Reason, Role, TaskState};
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::jobs::{seen_state, selector};
use crate::failure::Failure;
use crate::flags::Explain;
use crate::output::{self, json};
use crate::quantity::{shown_bytes, shown_time};

/// A reason as it is shown to programs.
#[derive(Debug, Serialize)]
struct ShownReason {
    reason: &'static str,
    /// The first of the tasks that it is about.
    first_task: u64,
    /// Number of those, which need not be consecutive.
    tasks: u64,
    /// The tier of the node that says so.
    told_by: &'static str,
    /// That node.
    node: String,
    /// The node that the reason is about.
    subject: Option<String>,
    /// What it counts depends on the reason.
    number: u64,
    /// What the node says beside.
    text: String,
    /// The sentence for people.
    words: String,
    /// What to do about it; `None` where nothing has to be done.
    advice: Option<String>,
}

/// A node that was asked and does not answer.
#[derive(Debug, Serialize)]
struct ShownSilent {
    node: String,
    tier: &'static str,
    address: String,
}

/// All of it, for programs.
#[derive(Debug, Serialize)]
struct Shown {
    job: String,
    task: Option<u64>,
    state: &'static str,
    reasons: Vec<ShownReason>,
    silent: Vec<ShownSilent>,
}

/// `remuda explain`.
pub(crate) fn run(flags: &Explain) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let task = flags.task.map(TaskIndex);
    let explained = match client.explain(selector(&flags.job), task) {
        Err(error @ ClientError::NoTask { .. }) => {
            return Err(Failure::usage(error.to_string()).hint("tasks are counted from 0 on"));
        }
        other => other.asked()?,
    };
    let words = Words { explained: &explained, task, now: time_of_day() };
    if flags.listing.json {
        return json::print(&words.shown());
    }
    output::print(&words.text())
}

/// What was found out, on its way to people.
struct Words<'a> {
    explained: &'a Explained,
    task: Option<TaskIndex>,
    /// Time of day.
    now: Duration,
}

impl Words<'_> {
    fn shown(&self) -> Shown {
        let Explained { job, told, silent, .. } = self.explained;
        let reason = |it: &Told| {
            let (words, advice) = self.sentence(it);
            ShownReason {
                reason: it.reason.name(),
                first_task: it.first_task,
                tasks: it.task_count,
                told_by: it.tier.name(),
                node: it.by.to_string(),
                subject: it.subject.map(|node| node.to_string()),
                number: it.number,
                text: it.text.clone(),
                words,
                advice,
            }
        };
        let silent = silent.iter().map(|node| ShownSilent {
            node: node.node.to_string(),
            tier: node.role.name(),
            address: node.address.clone(),
        });
        Shown {
            job: job.job.to_string(),
            task: self.task.map(|task| task.0),
            state: self.state(),
            reasons: told.iter().map(reason).collect(),
            silent: silent.collect(),
        }
    }

    /// The state of what was asked for.
    fn state(&self) -> &'static str {
        let Explained { job, task, told, .. } = self.explained;
        let is_running = told.iter().any(|it| it.reason == Reason::Running);
        match task {
            Some(run) if run.state == TaskState::Queued && is_running => TaskState::Running.name(),
            Some(run) => run.state.name(),
            None if job.state == JobState::Queued && !job.is_held && is_running => {
                JobState::Running.name()
            }
            None => seen_state(job),
        }
    }

    fn text(&self) -> String {
        let Explained { job, told, silent, .. } = self.explained;
        let head = match self.task {
            Some(task) => format!("task {task} of job {} is {}", job.job, self.state()),
            None => format!(
                "job {} is {}: {} of {} tasks have their outcome",
                job.job,
                self.state(),
                job.done_count + job.failed_count,
                job.task_count
            ),
        };
        let mut lines = vec![head];
        let mut say = |text: String, advice: Option<String>| {
            lines.push(format!("- {text}"));
            lines.extend(advice.map(|advice| format!("  hint: {advice}")));
        };
        let does_not_answer = |node: &NodeSummary| {
            let text = format!("{} {} does not answer", node.role, node.address);
            (text, Some("see how the cluster is: remuda health".to_owned()))
        };
        // An auxiliary balancer that is silent keeps no task from being dealt.
        let matters = |node: &&NodeSummary| node.role != Role::Balancer || node.leads;
        for node in silent.iter().filter(matters) {
            let (text, advice) = does_not_answer(node);
            say(text, advice);
        }
        for it in told {
            let (words, advice) = self.sentence(it);
            say(self.tasks(it) + &words, advice);
        }
        for node in silent.iter().filter(|node| !matters(node)) {
            let (text, advice) = does_not_answer(node);
            say(text, advice);
        }
        if told.is_empty() && silent.is_empty() {
            say("nobody knows of anything that holds it up: ask again".to_owned(), None);
        }
        lines.join("\n") + "\n"
    }

    /// Which tasks a reason is about, where that is not clear.
    fn tasks(&self, told: &Told) -> String {
        match told.task_count {
            _ if self.task.is_some() => String::new(),
            0 => String::new(),
            count if count == self.explained.job.task_count => String::new(),
            1 => format!("task {}: ", told.first_task),
            count => format!("{count} tasks, from {} on: ", told.first_task),
        }
    }

    fn name(&self, node: Option<NodeId>) -> String {
        let known = self.explained.nodes.iter().find(|it| Some(it.node) == node);
        match (known, node) {
            (Some(NodeSummary { role, address, .. }), _) => format!("{role} {address}"),
            (None, Some(node)) => format!("node {node}"),
            (None, None) => "a node".to_owned(),
        }
    }

    /// One reason in words, and what to do about it.
    fn sentence(&self, told: &Told) -> (String, Option<String>) {
        let Explained { job, cpu_milli, memory_bytes, .. } = self.explained;
        let id = job.job;
        let number = told.number;
        let beside = |words: String| match &*told.text {
            "" => words,
            text => format!("{words}: {text}"),
        };
        let plain = |words: &str| (words.to_owned(), None);
        let health = || Some("see how the cluster is: remuda health".to_owned());
        match told.reason {
            Reason::Finished => (self.finished(told), None),
            Reason::Cancelled if job.state == JobState::Failed => plain(
                "never executed: the job failed before, as more tasks failed than --max-fails \
                 allows",
            ),
            Reason::Cancelled => plain("never executed: the job was cancelled"),
            Reason::Held => (
                "the job is held: nothing more of it is dealt".to_owned(),
                Some(format!("let it go on: remuda release {id}")),
            ),
            Reason::Running => (self.running(told), None),
            Reason::Reporting => {
                let words = format!("executed at {}", self.name(told.subject));
                (beside(format!("{words}, the masters have no outcome yet")), None)
            }
            Reason::AtWorker => {
                let worker = self.name(told.subject);
                match number {
                    _ if told.tier == Role::Balancer => (format!("dealt to {worker}"), None),
                    0 => (beside(format!("next at {worker}")), None),
                    _ => (beside(format!("waits at {worker} behind {}", tasks(number))), None),
                }
            }
            Reason::Inputs => {
                let worker = self.name(told.subject);
                (format!("waits at {worker} for its inputs, which are on their way"), None)
            }
            Reason::NoBalancer if told.tier == Role::Balancer => {
                let words = format!("{} deals nothing at present", self.name(Some(told.by)));
                (beside(words), health())
            }
            Reason::NoBalancer => {
                (format!("nobody deals the tasks of balancer group {number} at present"), health())
            }
            Reason::NotGranted => {
                let words =
                    format!("dealt later, when most tasks before {number} have their outcome");
                (words, None)
            }
            Reason::TakingOver if number > 0 => {
                let left = shown_time(Duration::from_millis(number));
                let words = "the balancer took over and lets the workers say what they hold";
                (format!("{words}, for {left} more"), None)
            }
            Reason::TakingOver => (beside("the balancer takes over".to_owned()), None),
            Reason::Asked => {
                let worker = self.name(told.subject);
                let words = format!("{worker} has it no more, the masters are asked what became");
                (format!("{words} of it"), None)
            }
            Reason::NoWorker => {
                let advice = "start one: remuda serve worker --config FILE".to_owned();
                (beside("there is no worker to deal it to".to_owned()), Some(advice))
            }
            Reason::TooLarge => {
                let needs = match memory_bytes {
                    0 => cpus(*cpu_milli),
                    bytes => format!("{} and {} of memory", cpus(*cpu_milli), shown_bytes(*bytes)),
                };
                let largest = self.name(told.subject);
                let has = match &*told.text {
                    "" => cpus(number),
                    text => text.to_owned(),
                };
                let advice = "start a larger worker, or submit the job with less --cpus and --mem";
                let words = format!("no worker is large enough: a task takes {needs}");
                (format!("{words}; the largest, {largest}, has {has}"), Some(advice.to_owned()))
            }
            Reason::SlotsBusy => {
                let advice = "it goes on by itself; more workers make it faster".to_owned();
                (beside(format!("all slots are busy, with {}", tasks(number))), Some(advice))
            }
            Reason::Behind => (
                format!("{} of jobs with a higher priority are dealt before", tasks(number)),
                Some(format!("let this job come first: remuda priority {id} N")),
            ),
            Reason::WorkersFull => {
                let advice = "see whether storage has room and answers, remuda df, and whether the \
                              disks of workers have room";
                let words = match number {
                    1 => format!("{} takes no tasks", self.name(told.subject)),
                    number => format!("{number} workers take no tasks"),
                };
                let words = format!(
                    "{words}: results are neither stored nor recorded, or a worker's disk is full"
                );
                (beside(words), Some(advice.to_owned()))
            }
            Reason::Retried => {
                let times = if number == 1 { "one attempt" } else { "attempts" };
                let count = if number == 1 { String::new() } else { format!("{number} ") };
                let most = if self.task.is_some() { "" } else { "up to " };
                let most = if number == 1 { "" } else { most };
                (beside(format!("tried before, {most}{count}{times} without an outcome")), None)
            }
            Reason::Next => (beside("nothing holds it up: it is dealt next".to_owned()), None),
            Reason::NoLeader => {
                (plain("the masters have no leader: nothing is accepted or recorded").0, health())
            }
        }
    }

    fn finished(&self, told: &Told) -> String {
        let Some(run) = &self.explained.task else {
            let all = told.task_count == self.explained.job.task_count;
            return if all { "all tasks have" } else { "they have" }.to_owned() + " their outcome";
        };
        let attempts = match run.earlier_attempts {
            0 => String::new(),
            earlier => format!(", in attempt {}", u64::from(earlier) + 1),
        };
        let cause = match run.cause {
            Cause::None => String::new(),
            cause => format!(" ({cause})"),
        };
        match run.state {
            TaskState::Done => format!("done{attempts}"),
            TaskState::Failed => {
                format!("failed with exit code {}{cause}{attempts}", run.exit_code)
            }
            state => state.name().to_owned(),
        }
    }

    fn running(&self, told: &Told) -> String {
        let worker = self.name(told.subject);
        let there = self.explained.running.iter().filter(|(node, _)| Some(*node) == told.subject);
        // Between two machines' clocks it may seem to have begun in the future.
        let since = |start: u64| Duration::from_micros(self.now.as_micros().saturating_sub(start));
        let longest = there.clone().map(|(_, activity)| since(activity.start_unix_us)).max();
        let span = longest.map(|it| format!(", for {}", shown_time(it))).unwrap_or_default();
        let part = match (self.task, there.clone().next()) {
            (Some(_), Some((_, activity))) => activity
                .progress
                .map(|it| format!(", {:.1} % done as it says", f64::from(it) / 10.0)),
            _ => None,
        };
        format!("runs at {worker}{span}{}", part.unwrap_or_default())
    }
}

fn tasks(count: u64) -> String {
    match count {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    }
}

fn cpus(milli: u64) -> String {
    match milli {
        1_000 => "1 CPU".to_owned(),
        milli => format!("{} CPUs", milli as f64 / 1_000.0),
    }
}
