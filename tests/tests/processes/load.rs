//! More than is good: clients by the thousand, clients that never read, jobs by the ten thousand, a
//! job that never ends. Memory stays bounded, the others go on, what was acknowledged is done.
//!
//! Larger runs: `REMUDA_SUBMISSIONS` for each client (ordinarily 2), `REMUDA_JOBS` (10,000).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use client::Client;
use client::logic::jobs::{Request, Submission};
use cluster_tests::wait::until;
use node::clock::Clock;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{JobId, LogIndex, NodeId};
use proto::limits::CLIENT_WINDOW;
use proto::messages::job::{JobAccepted, JobList};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Records, encode};
use proto::status::{ErrorCode, JobState};
use proto::time::{Duration, Instant};

use crate::cluster::{Cluster, Frozen, LONG, kill};
use crate::strangers::{Stranger, count, most_memory_mib, submission};

const CLIENTS: usize = 1_000;

/// Of a hundred clients so many keep to no window, and submit so many times as much.
const GREEDY: usize = 1;
const GREED: usize = 150;

/// Threads that play the clients.
const THREADS: usize = 10;

/// A submission without an answer is sent again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// More than the tiers need here, and less than they would if anything were queued without end
/// (a build without optimisation).
const BOUND_MIB: u64 = 400;

fn description() -> Vec<u8> {
    JobDescription::new(Runtime::Noop(Noop::default())).encode().expect("short")
}

fn client(cluster: &Cluster) -> Client {
    let addresses = cluster.tier("master").into_iter().map(|it| it.address).collect();
    let mut client = Client::connect(addresses).expect("a client");
    client.set_patience(LONG);
    client
}

/// Prints how much memory each process has had at most, and asserts that it is bounded.
#[track_caller]
fn assert_bounded(cluster: &Cluster, when: &str) {
    for it in cluster.status() {
        let most = most_memory_mib(it.pid.expect("it runs"));
        println!("{when}: {} had {most} MiB at most", it.name);
        assert!(most < BOUND_MIB, "{}: {most} MiB", it.name);
    }
}

/// Waits until all of these jobs are listed as done.
#[track_caller]
fn assert_done(cluster: &Cluster, jobs: &BTreeSet<JobId>) {
    let client = client(cluster);
    until("all that was acknowledged is done", Duration::from_secs(240), || {
        let mut left = jobs.clone();
        let mut before = Some(LogIndex(0));
        while let Some(index) = before {
            let page = client.jobs(index, 1_000).ok()?;
            for job in page.items {
                assert!(job.state != JobState::Failed, "{job:?}");
                if job.state == JobState::Done {
                    left.remove(&job.job);
                }
            }
            before = page.next;
        }
        left.is_empty().then_some(())
    });
}

/// What became of the submissions of some clients.
#[derive(Default)]
struct Told {
    accepted: BTreeSet<JobId>,
    busy: usize,
}

/// A client that submits one job after the other.
struct Submitter {
    stranger: Stranger,
    window: usize,
    left: usize,
    next_request: u64,
    under_way: BTreeMap<u64, (JobId, Instant)>,
}

impl Submitter {
    /// Sends what is due; false where nothing is left to do.
    fn send(&mut self, now: Instant, random: &mut fastrand::Rng, description: &[u8]) -> bool {
        while self.left > 0 && self.under_way.len() < self.window {
            self.left -= 1;
            self.begin(now, JobId(random.u128(..)), description);
        }
        let due = self.under_way.iter().filter(|(_, (_, due))| *due <= now);
        for (request, job) in due.map(|(&request, &(job, _))| (request, job)).collect::<Vec<_>>() {
            self.under_way.insert(request, (job, now + AGAIN));
            self.stranger.send(submission(job, description), request);
        }
        !self.under_way.is_empty()
    }

    fn begin(&mut self, now: Instant, job: JobId, description: &[u8]) {
        self.next_request += 1;
        self.under_way.insert(self.next_request, (job, now + AGAIN));
        self.stranger.send(submission(job, description), self.next_request);
    }

    fn receive(&mut self, now: Instant, told: &mut Told, description: &[u8]) {
        while let Some(frame) = self.stranger.receive() {
            for record in Records::of(&frame).flatten() {
                let request = record.request_id().0;
                if record.message_type() == JobAccepted::TYPE {
                    if let Some((job, _)) = self.under_way.remove(&request) {
                        told.accepted.insert(job);
                    }
                } else if let Ok(error) = record.read::<ErrorReply>() {
                    self.refused(now, request, &error, told, description);
                }
            }
        }
    }

    fn refused(
        &mut self,
        now: Instant,
        request: u64,
        error: &ErrorReply,
        told: &mut Told,
        description: &[u8],
    ) {
        let Some(&(job, _)) = self.under_way.get(&request) else { return };
        let code = ErrorCode::from_wire(error.code).expect("a code of ours");
        if code == ErrorCode::TooOld {
            // Its number fell out of the window while it waited: the job's UUID makes it harmless.
            self.under_way.remove(&request);
            return self.begin(now, job, description);
        }
        let wait = error.retry_after_ms;
        assert!(code.is_retryable() && wait > 0, "{code}: {wait} ms");
        told.busy += usize::from(code == ErrorCode::Busy);
        self.under_way.insert(request, (job, now + Duration::from_millis(u64::from(wait))));
    }
}

/// Plays some of the clients to their end.
fn play(thread: usize, addresses: &[String], each: usize) -> Told {
    let (context, clock, description) = (zmq::Context::new(), Clock::start(), description());
    let mut random = fastrand::Rng::with_seed(thread as u64 + 1);
    let mut submitters: Vec<Submitter> = (0..CLIENTS / THREADS)
        .map(|number| {
            let node = NodeId((thread as u128) << 64 | (number as u128 + 1) << 16 | 0xc11e);
            let stranger = Stranger::connect(&context, &addresses[number % addresses.len()], node);
            let is_greedy = number < GREEDY;
            Submitter {
                stranger,
                window: if is_greedy { each * GREED } else { 1 },
                left: if is_greedy { each * GREED } else { each },
                // The hello had number 1.
                next_request: 1,
                under_way: BTreeMap::new(),
            }
        })
        .collect();
    let mut told = Told::default();
    loop {
        let now = clock.now();
        let mut is_busy = false;
        for submitter in &mut submitters {
            is_busy |= submitter.send(now, &mut random, &description);
            submitter.receive(now, &mut told, &description);
        }
        if !is_busy {
            return told;
        }
        assert!(now.0 < Duration::from_secs(300).0, "{} are accepted only", told.accepted.len());
        std::thread::park_timeout(Duration::from_millis(5).to_std());
    }
}

#[test]
fn a_thousand_clients_submit_and_each_acknowledged_job_is_done() {
    node::descriptors::raise().expect("a socket for each client");
    let cluster = Cluster::start(&["--masters", "3", "--balancers", "1", "--storage", "1"]);
    let addresses: Vec<String> = cluster.tier("master").into_iter().map(|it| it.address).collect();
    let each = count("REMUDA_SUBMISSIONS", 2);
    let (told, longest) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let addresses = &addresses;
                    move || play(thread, addresses, each)
                })
            })
            .collect();
        // Somebody else looks at it meanwhile, and is answered.
        let (clock, mut longest) = (Clock::start(), Duration::ZERO);
        while threads.iter().any(|thread| !thread.is_finished()) {
            let begin = clock.now();
            cluster.run(&["jobs", "--limit", "5"]).ok();
            longest = longest.max(clock.now().since(begin));
            std::thread::park_timeout(Duration::from_millis(500).to_std());
        }
        let mut all = Told::default();
        for thread in threads {
            let told = thread.join().expect("it does not panic");
            all.accepted.extend(told.accepted);
            all.busy += told.busy;
        }
        (all, longest)
    });
    let wanted = THREADS * (GREEDY * GREED + CLIENTS / THREADS - GREEDY) * each;
    println!(
        "{} accepted, {} answered busy, `remuda jobs` took {longest} at most",
        told.accepted.len(),
        told.busy
    );
    assert_eq!(told.accepted.len(), wanted);
    assert!(told.busy > 0, "{GREED} at a time are more than the window of {CLIENT_WINDOW}");
    assert_done(&cluster, &told.accepted);
    assert_bounded(&cluster, "a thousand clients");
}

#[test]
fn clients_that_never_read_cost_bounded_memory_and_stop_nobody() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];
    let cluster = Cluster::start(&shape);
    let client = client(&cluster);
    let jobs: BTreeSet<JobId> = submit(&client, 500);
    assert_done(&cluster, &jobs);
    let master = cluster.leader("master");
    let context = zmq::Context::new();
    let deaf: Vec<Stranger> = (0..6)
        .map(|number| {
            let mut stranger =
                Stranger::connect(&context, &master.address, NodeId(0xdeaf + number));
            for request in 0..1_500 {
                let list = JobList { limit: 500, ..JobList::default() };
                stranger.send(encode(&list, &[]), request + 2);
            }
            stranger
        })
        .collect();
    // One that follows a task's output live, and hangs.
    let script = "head -c 100000000 /dev/zero | tr '\\0' a | fold -w 1000; sleep 600";
    let loud = cluster.submit(&["--", "sh", "-c", script]);
    let mut command = cluster.command(&["logs", "--follow", &loud, "0"]);
    let mut follower =
        command.stdout(std::process::Stdio::piped()).spawn().expect("run the program");
    let frozen = Frozen::freeze(follower.id());
    for _ in 0..3 {
        let job = cluster.submit(&["--noop", "3", "--array", "0-99"]);
        cluster.run(&["wait", &job]).ok();
    }
    assert_bounded(&cluster, "deaf clients");
    cluster.run(&["cancel", &loud]).ok();
    drop(frozen);
    kill(follower.id());
    follower.wait().expect("it is a child");
    drop(deaf);
}

/// Submits so many jobs of one task, a window at a time.
#[track_caller]
fn submit(client: &Client, jobs: usize) -> BTreeSet<JobId> {
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let mut random = fastrand::Rng::with_seed(jobs as u64);
    let ids: BTreeSet<JobId> = (0..jobs).map(|_| JobId(random.u128(..))).collect();
    let mut begun = VecDeque::new();
    for &job in &ids {
        if begun.len() == CLIENT_WINDOW as usize / 2 {
            let first: client::Begun<_> = begun.pop_front().expect("some were begun");
            first.wait().expect("an answer").expect("it is accepted");
        }
        let submission = Submission::new(job, &description, 1, Vec::new()).expect("short");
        begun.push_back(client.begin(Request::Submit(submission)));
    }
    for one in begun {
        one.wait().expect("an answer").expect("it is accepted");
    }
    ids
}

#[test]
fn jobs_by_the_ten_thousand_are_done_listed_and_there_after_a_restart() {
    let cluster = Cluster::start(&["--masters", "1", "--balancers", "1", "--storage", "1"]);
    let wanted = count("REMUDA_JOBS", 10_000);
    let (clock, client) = (Clock::start(), client(&cluster));
    let before = most_memory_mib(cluster.leader("master").pid.expect("it runs"));
    let jobs = submit(&client, wanted);
    let submitted = clock.now();
    assert_done(&cluster, &jobs);
    let done = clock.now();
    let master = cluster.leader("master");
    let most = most_memory_mib(master.pid.expect("it runs"));
    println!(
        "{wanted} jobs: submitted in {}, done in {}, {} bytes for each in the master",
        submitted.since(Instant(0)),
        done.since(Instant(0)),
        most.saturating_sub(before) * (1 << 20) / wanted as u64
    );
    assert_bounded(&cluster, "many jobs");
    let begin = clock.now();
    kill(master.pid.expect("it runs"));
    assert_done(&cluster, &jobs);
    println!("all are listed again {} after the kill", clock.now().since(begin));
}

#[test]
fn small_jobs_finish_beside_one_that_never_ends() {
    let cluster = Cluster::start(&["--masters", "1", "--balancers", "1", "--storage", "1"]);
    let endless = ["--noop", "3", "--noop-shortest", "2000", "--noop-longest", "4000"];
    let endless = cluster.submit(&[&endless[..], &["--array", "0-99999999"]].concat());
    until("tasks of it that are done", LONG, || {
        cluster.job(&endless)["done"].as_u64().filter(|&done| done > 0)
    });
    let clock = Clock::start();
    for _ in 0..5 {
        let begin = clock.now();
        let job = cluster.submit(&["--noop", "3", "--array", "0-9"]);
        cluster.run(&["wait", &job]).ok();
        let took = clock.now().since(begin);
        println!("a job of ten tasks took {took}");
        assert!(took < Duration::from_secs(20), "{took}");
    }
    assert_bounded(&cluster, "an endless job");
    cluster.run(&["cancel", &endless]).ok();
}
