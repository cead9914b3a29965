//! Clients, kills, and what must hold.
//!
//! Responsible for starting and killing members, for clients that repeat a transfer under its
//! number until somebody answers, and for the verdict at the end. Knows nothing of consensus but
//! what members say by lines.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use fastrand::Rng;
use node::clock::Clock;
use proto::time::{Duration, Instant};

use crate::bank::{ACCOUNTS, INITIAL, Transfer};
use crate::member;

const MEMBERS: usize = 3;
const CLIENTS: u64 = 16;

/// After this a client asks somebody else.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a member stays dead, at most. Longer than an election.
const DEAD_MOST: Duration = Duration::from_millis(1_500);

/// How long anything may take that must come about: start, join, the end.
const LONGEST: Duration = Duration::from_secs(30);

/// What to do.
pub(crate) struct Settings {
    /// How long transfers run.
    pub(crate) seconds: u64,
    /// Kills in that time; the last one takes all three members at once.
    pub(crate) kills: u64,
    /// Of transfers and victims.
    pub(crate) seed: u64,
}

/// One line of a life of a member.
struct Said {
    member: usize,
    life: u32,
    line: String,
}

struct Running {
    child: Child,
    input: ChildStdin,
}

struct Node {
    folder: PathBuf,
    listen: String,
    life: u32,
    running: Option<Running>,
    start_at: Instant,
}

struct Client {
    transfer: Transfer,
    /// Whom it waits for, in which life, since when.
    asked: Option<(usize, u32, Instant)>,
    ask_at: Instant,
    last_index: u64,
    is_done: bool,
}

struct Drill {
    clock: Clock,
    rng: Rng,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    say: Sender<Said>,
    said: Receiver<Said>,
    leader: Option<usize>,
    terms: BTreeSet<u64>,
    done: u64,
    repeated: u64,
    installed: u64,
    is_ending: bool,
}

/// Runs the drill; an error says what did not hold.
pub(crate) fn run(settings: &Settings) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("make a folder: {error}"))?;
    let mut drill = Drill::new(settings.seed, folder.path());
    drill.assemble()?;
    let (begin, span) = (drill.clock.now(), Duration::from_secs(settings.seconds));
    let end = begin + span;
    for kill in 1..=settings.kills {
        drill.work_until(begin + Duration(span.0 * kill / (settings.kills + 1)))?;
        drill.progress()?;
        drill.kill(kill == settings.kills);
    }
    drill.work_until(end)?;
    drill.progress()?;
    let (done, took) = (drill.done, drill.clock.now().since(begin));
    drill.finish()?;
    println!(
        "{done} transfers in {took} ({:.0}/s) by {CLIENTS} clients; {} kills, {} repeated \
         requests, {} leaders, {} snapshots installed; {} in {ACCOUNTS} accounts as in the beginning",
        done as f64 / took.as_secs_f64(),
        settings.kills,
        drill.repeated,
        drill.terms.len(),
        drill.installed,
        ACCOUNTS * INITIAL,
    );
    if settings.kills > 0 && drill.terms.len() < 2 {
        return Err("no kill brought another leader".to_owned());
    }
    Ok(())
}

impl Drill {
    fn new(seed: u64, folder: &Path) -> Drill {
        let (say, said) = channel();
        let node = |number: usize| Node {
            folder: folder.join(number.to_string()),
            listen: "tcp://127.0.0.1:*".to_owned(),
            life: 0,
            running: None,
            start_at: Instant(0),
        };
        let mut drill = Drill {
            clock: Clock::start(),
            rng: Rng::with_seed(seed),
            nodes: (1..=MEMBERS).map(node).collect(),
            clients: Vec::new(),
            say,
            said,
            leader: None,
            terms: BTreeSet::new(),
            done: 0,
            repeated: 0,
            installed: 0,
            is_ending: false,
        };
        for client in 1..=CLIENTS {
            let transfer = drill.draw(client, 1);
            let ask_at = Instant(0);
            let new = Client { transfer, asked: None, ask_at, last_index: 0, is_done: false };
            drill.clients.push(new);
        }
        drill
    }

    fn draw(&mut self, client: u64, number: u64) -> Transfer {
        let mut account = || self.rng.u64(..ACCOUNTS);
        let (from, to) = (account(), account());
        Transfer { client, number, from, to, amount: self.rng.u64(..200) }
    }

    /// Starts a member and, where its address is known, tells it the others' and them its.
    fn start(&mut self, member: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("start a member: {error}");
        let node = &mut self.nodes[member];
        node.life += 1;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args([member::ARGUMENT, &(member + 1).to_string()])
            .arg(&node.folder)
            .arg(&node.listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let input = child.stdin.take().ok_or("a member has no standard input")?;
        let output = child.stdout.take().ok_or("a member has no standard output")?;
        node.running = Some(Running { child, input });
        let (say, life) = (self.say.clone(), node.life);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if say.send(Said { member, life, line }).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// A member that died takes nothing; whoever waits for it asks somebody else.
    fn tell(&mut self, member: usize, line: &str) {
        if let Some(running) = &mut self.nodes[member].running {
            let _ = writeln!(running.input, "{line}");
        }
    }

    fn introduce(&mut self, member: usize) {
        for other in (0..MEMBERS).filter(|&other| other != member) {
            let line = format!("peer {} {}", other + 1, self.nodes[other].listen);
            self.tell(member, &line);
        }
    }

    /// The next line of a life that has not ended.
    fn hear(&mut self, until: Instant) -> Option<Said> {
        loop {
            let wait = until.since(self.clock.now()).to_std();
            match self.said.recv_timeout(wait) {
                Ok(said) => {
                    let node = &self.nodes[said.member];
                    if node.running.is_some() && node.life == said.life {
                        return Some(said);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn wait_for(&mut self, member: usize, word: &str) -> Result<String, String> {
        let until = self.clock.now() + LONGEST;
        while let Some(said) = self.hear(until) {
            self.note(&said);
            if said.member == member
                && let Some(rest) = said.line.strip_prefix(word)
            {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(format!("member {} did not say {word:?} in {LONGEST}", member + 1))
    }

    fn note(&mut self, said: &Said) {
        if let Some(term) = said.line.strip_prefix("leads ").and_then(|term| term.parse().ok()) {
            self.terms.insert(term);
            self.leader = Some(said.member);
        }
        self.installed += u64::from(said.line == "installed");
    }

    /// A cluster of one becomes one of three.
    fn assemble(&mut self) -> Result<(), String> {
        for member in 0..MEMBERS {
            self.start(member)?;
            self.nodes[member].listen = self.wait_for(member, "listens")?;
        }
        for member in 0..MEMBERS {
            self.introduce(member);
        }
        for order in ["learn 2", "learn 3", "promote"] {
            let until = self.clock.now() + LONGEST;
            loop {
                self.tell(0, order);
                if self.wait_for(0, "")? == "changed" {
                    break;
                }
                if self.clock.now() > until {
                    return Err(format!("the first member does not carry out {order:?}"));
                }
            }
        }
        Ok(())
    }

    fn work_until(&mut self, end: Instant) -> Result<(), String> {
        while self.clock.now() < end {
            let now = self.clock.now();
            for member in 0..MEMBERS {
                let node = &self.nodes[member];
                if node.running.is_none() && node.start_at <= now {
                    self.start(member)?;
                    self.introduce(member);
                }
            }
            for client in 0..self.clients.len() {
                self.ask(client, now);
            }
            if let Some(said) = self.hear(end.min(now + Duration::from_millis(10))) {
                self.note(&said);
                self.on_reply(&said)?;
            }
        }
        Ok(())
    }

    /// Waits until something is done, so that a kill falls between transfers and is overcome.
    fn progress(&mut self) -> Result<(), String> {
        let (before, until) = (self.done, self.clock.now() + LONGEST);
        while self.done < before + CLIENTS {
            if self.clock.now() > until {
                return Err(format!("nothing is done any more since {LONGEST}"));
            }
            self.work_until(self.clock.now() + Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn ask(&mut self, client: usize, now: Instant) {
        let it = &mut self.clients[client];
        if let Some((member, life, since)) = it.asked {
            let node = &self.nodes[member];
            let lives = node.running.is_some() && node.life == life;
            if lives && now.since(since) < PATIENCE {
                return;
            }
            self.repeated += 1;
            it.asked = None;
        }
        if it.is_done || now < it.ask_at {
            return;
        }
        let member = self.rng.usize(..MEMBERS);
        let node = &self.nodes[member];
        if node.running.is_none() {
            return;
        }
        it.asked = Some((member, node.life, now));
        let Transfer { client, number, from, to, amount } = it.transfer;
        self.tell(member, &format!("transfer {client} {number} {from} {to} {amount}"));
    }

    fn on_reply(&mut self, said: &Said) -> Result<(), String> {
        let mut words = said.line.split(' ');
        let verdict = words.next().unwrap_or_default();
        if verdict != "done" && verdict != "failed" {
            return Ok(());
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(client), Some(asked)) = (number(), number()) else {
            return Err(format!("a member said {:?}", said.line));
        };
        let now = self.clock.now();
        let it = &mut self.clients[client as usize - 1];
        if verdict == "failed" {
            if it.transfer.number == asked
                && it
                    .asked
                    .is_some_and(|(member, life, _)| (member, life) == (said.member, said.life))
            {
                it.asked = None;
                it.ask_at = now + Duration::from_millis(20);
                self.repeated += 1;
            }
            return Ok(());
        }
        let index = number().ok_or("a reply without index")?;
        if asked < it.transfer.number {
            // A late answer to a request that was repeated.
            if asked + 1 == it.transfer.number && index != it.last_index {
                return Err(format!("client {client}: transfer {asked} has two places in the log"));
            }
            return Ok(());
        }
        if index <= it.last_index {
            let last = it.last_index;
            return Err(format!("client {client}: the reply at {index} came after that at {last}"));
        }
        it.last_index = index;
        it.asked = None;
        self.done += 1;
        if self.is_ending {
            it.is_done = true;
        } else {
            let transfer = self.draw(client, asked + 1);
            self.clients[client as usize - 1].transfer = transfer;
        }
        Ok(())
    }

    /// Kills one member, preferably the leader, or all.
    fn kill(&mut self, all: bool) {
        let leader = self.leader.filter(|_| self.rng.u8(..3) > 0);
        let victim = leader.unwrap_or_else(|| self.rng.usize(..MEMBERS));
        for member in (0..MEMBERS).filter(|&member| all || member == victim) {
            let node = &mut self.nodes[member];
            if let Some(mut running) = node.running.take() {
                // SIGKILL; it fails only where the process has ended by itself.
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
            let dead = Duration(self.rng.u64(..DEAD_MOST.as_micros()));
            node.start_at = self.clock.now() + dead;
        }
    }

    /// Lets every client have its last answer, and compares what all members say.
    fn finish(&mut self) -> Result<(), String> {
        self.is_ending = true;
        let until = self.clock.now() + LONGEST;
        // The last one that was killed may still be dead when every client has its answer.
        let is_open = |drill: &Drill| {
            drill.clients.iter().any(|client| !client.is_done)
                || drill.nodes.iter().any(|node| node.running.is_none())
        };
        while is_open(self) {
            if self.clock.now() > until {
                return Err(format!("not every transfer was answered in {LONGEST}"));
            }
            self.work_until(self.clock.now() + Duration::from_millis(50))?;
        }
        let last =
            self.clients.iter().map(|it| format!("{}:{}", it.transfer.client, it.transfer.number));
        let expected = last.collect::<Vec<_>>().join(",");
        for member in 0..MEMBERS {
            let sum = loop {
                self.tell(member, "sum");
                let line = self.wait_for(member, "")?;
                match line.strip_prefix("sum ") {
                    Some(sum) => break sum.to_owned(),
                    None if self.clock.now() > until => {
                        return Err(format!("member {} cannot be read", member + 1));
                    }
                    None => {}
                }
            };
            let mut words = sum.split(' ');
            let (total, last) = (words.next(), words.next_back());
            if total != Some(&(ACCOUNTS * INITIAL).to_string()) {
                return Err(format!("member {} has {total:?} in its accounts", member + 1));
            }
            if last != Some(&expected) {
                return Err(format!("member {} lacks answered transfers: {last:?}", member + 1));
            }
        }
        Ok(())
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        for running in self.nodes.iter_mut().filter_map(|node| node.running.take()) {
            let Running { mut child, input } = running;
            // The end of its input ends a member.
            drop(input);
            let _ = child.wait();
        }
    }
}
