//! A cluster whose nodes have an address and a network namespace each, so that a test can cut
//! between any two of them, or make links slow and lossy.
//!
//! Nothing outside of these namespaces is touched: they hang together by a bridge in one more of
//! their own. A namespace lives as long as the process that holds it, which ends when its standard
//! input does; so all of it is gone with the test, however that ends.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use cluster_tests::needs::{Need, has};
use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, LONG, Said, kill, program};

/// Every node listens on this port of its own address.
const PORT: u16 = 7_000;

/// Names and last bytes of addresses, masters first. Whoever runs commands has one, too.
const MACHINES: [(&str, u8); 11] = [
    ("master-1", 1),
    ("master-2", 2),
    ("master-3", 3),
    ("storage-1", 11),
    ("storage-2", 12),
    ("storage-3", 13),
    ("balancer-1", 21),
    ("balancer-2", 22),
    ("worker-1", 31),
    ("worker-2", 32),
    ("client", 99),
];

/// What stands in each machine's packet filter: whom it cannot hear or reach, and what it loses.
const FILTER: &str = "table inet links {
    set cut { type ipv4_addr; }
    chain hear { type filter hook input priority 0; ip saddr @cut drop; }
    chain reach { type filter hook output priority 0; ip daddr @cut drop; }
    chain lose { type filter hook input priority 1; }
}
";

/// A process that keeps a network namespace.
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Holder {
    fn new() -> Holder {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("unshare a network");
        let stdin = child.stdin.take();
        let holder = Holder { child, stdin };
        let own = std::fs::read_link("/proc/self/ns/net").expect("a network of this process");
        until("a network namespace", LONG, || {
            std::fs::read_link(holder.path()).is_ok_and(|its| its != own).then_some(())
        });
        holder
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// A command that runs inside.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs a command inside that reads a text.
    #[track_caller]
    fn feed(&self, program: &str, arguments: &[&str], text: &str) {
        let mut command = self.command(program);
        let mut child = command.args(arguments).stdin(Stdio::piped()).spawn().expect("run it");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("feed it");
        assert!(child.wait().expect("it ends").success(), "{program} {arguments:?}: {text}");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

struct Machine {
    holder: Holder,
    address: String,
    daemon: Option<Child>,
}

/// Such a cluster.
pub(crate) struct Islands {
    machines: BTreeMap<&'static str, Machine>,
    place: Cluster,
    /// Holds the bridge.
    _switch: Holder,
}

impl Islands {
    /// A running cluster; `None` where this machine has no network namespaces. `masters` are lines
    /// of the table `[master]`.
    #[track_caller]
    pub(crate) fn start(masters: &str) -> Option<Islands> {
        if !has(Need::Root) || !has(Need::Netns) || !has(Need::Nft) {
            return None;
        }
        let switch = Holder::new();
        switch.feed("ip", &["-batch", "-"], "link add hub type bridge\nlink set hub up\n");
        let machines = MACHINES.iter().map(|(name, number)| {
            let holder = Holder::new();
            let address = format!("10.77.0.{number}");
            let process = holder.child.id();
            let plug = format!(
                "link add port{number} type veth peer name wire netns {process}\n\
                 link set port{number} master hub up\n"
            );
            switch.feed("ip", &["-batch", "-"], &plug);
            let own = format!("link set lo up\naddr add {address}/24 dev wire\nlink set wire up\n");
            holder.feed("ip", &["-batch", "-"], &own);
            holder.feed("nft", &["-f", "-"], FILTER);
            (*name, Machine { holder, address, daemon: None })
        });
        let machines = machines.collect();
        let mut islands = Islands { machines, place: Cluster::home(), _switch: switch };
        for (name, _) in MACHINES.iter().filter(|(name, _)| *name != "client") {
            islands.configure(name, masters);
        }
        islands.run(&["cluster", "init", "--config", "master-1.toml"]).ok();
        for (name, _) in MACHINES.iter().filter(|(name, _)| *name != "client") {
            islands.begin(name);
        }
        until("all nodes and who leads them", LONG, || {
            let nodes = islands.nodes();
            let leaders = nodes.iter().filter(|node| node["leads"] == true).count();
            (nodes.len() == MACHINES.len() - 1 && leaders == 2).then_some(())
        });
        Some(islands)
    }

    fn configure(&self, name: &str, masters: &str) {
        let (tier, _) = name.split_once('-').expect("tier and number");
        let address = &self.machines[name].address;
        let others: Vec<String> = match name {
            "master-1" => Vec::new(),
            _ => self.masters().collect(),
        };
        let own = match tier {
            "master" => masters,
            "worker" => "slots = 2\ninputs = \"materialise\"\nuser = \"0\"",
            _ => "",
        };
        let data = self.place.place().join(name);
        let text = format!(
            "[node]\ndata = {data:?}\nlisten = \"tcp://{address}:{PORT}\"\n\
             telemetry = \"tcp://{address}:{}\"\nmasters = {others:?}\ninsecure = true\n\
             [{tier}]\n{own}\n",
            PORT + 1
        );
        std::fs::write(self.place.place().join(format!("{name}.toml")), text).expect("write it");
    }

    fn masters(&self) -> impl Iterator<Item = String> {
        let masters = self.machines.iter().filter(|(name, _)| name.starts_with("master"));
        masters.map(|(_, machine)| format!("tcp://{}:{PORT}", machine.address))
    }

    /// Starts a node.
    #[track_caller]
    pub(crate) fn begin(&mut self, name: &str) {
        let (tier, _) = name.split_once('-').expect("tier and number");
        let place = self.place.place().to_owned();
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(place.join(format!("{name}.log")));
        let log = log.expect("open a log");
        let machine = self.machines.get_mut(name).expect("a machine");
        let parent = std::process::id().to_string();
        let config = format!("{name}.toml");
        let mut command = machine.holder.command(program());
        command.args(["serve", tier, "--config", &config, "--parent", &parent]);
        command.current_dir(place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        machine.daemon = Some(command.spawn().expect("start a daemon"));
    }

    /// Kills a node, as a power cut would.
    #[track_caller]
    pub(crate) fn kill(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).expect("a machine");
        let mut daemon = machine.daemon.take().expect("a daemon that runs");
        kill(daemon.id());
        daemon.wait().expect("it ends");
    }

    /// A command on the client's machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machines["client"].holder.command(program());
        let masters: Vec<String> = self.masters().collect();
        command.args(arguments).current_dir(self.place.place());
        command.env("REMUDA_CLUSTER", masters.join(",")).stdin(Stdio::null());
        command
    }

    /// Runs a command there to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.try_run(arguments))
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run the program")
    }

    /// What `remuda nodes` lists; nothing where no master answers.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        let said = self.try_run(&["nodes", "--json"]);
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    /// The name of who leads a tier, as soon as there is one.
    #[track_caller]
    pub(crate) fn leader(&self, tier: &str) -> &'static str {
        until(&format!("a leading {tier}"), LONG, || {
            let nodes = self.nodes();
            let leads = |node: &&Value| node["tier"] == tier && node["leads"] == true;
            let address = nodes.iter().find(leads)?["address"].as_str()?.to_owned();
            let is_it = |machine: &Machine| address == format!("tcp://{}:{PORT}", machine.address);
            self.machines.iter().find(|(_, machine)| is_it(machine)).map(|(name, _)| *name)
        })
    }

    /// Names of the machines of some tiers.
    pub(crate) fn all(&self, tiers: &[&str]) -> Vec<&'static str> {
        let of = |name: &str| tiers.iter().any(|tier| name.starts_with(tier));
        self.machines.keys().copied().filter(|name| of(name)).collect()
    }

    /// Cuts a machine off from others, in both directions and without a word: what is sent is
    /// never heard of again.
    #[track_caller]
    pub(crate) fn cut(&self, one: &str, others: &[&str]) {
        let addresses: Vec<&str> = others
            .iter()
            .filter(|name| **name != one)
            .map(|name| &*self.machines[name].address)
            .collect();
        self.filter(one, &format!("add element inet links cut {{ {} }}\n", addresses.join(", ")));
    }

    /// Mends all links of a machine.
    #[track_caller]
    pub(crate) fn heal(&self, one: &str) {
        self.filter(one, "flush set inet links cut\n");
    }

    #[track_caller]
    fn filter(&self, name: &str, rules: &str) {
        self.machines[name].holder.feed("nft", &["-f", "-"], rules);
    }

    /// Makes every link lose some of a hundred packets.
    #[track_caller]
    pub(crate) fn lose(&self, lost_percent: u32) {
        for name in self.machines.keys() {
            let rule = format!(
                "add rule inet links lose iifname \"wire\" numgen random mod 100 < {lost_percent} \
                 drop\n"
            );
            self.filter(name, &rule);
        }
    }

    /// Makes every link slow: so many kbit/s for what each machine sends.
    #[track_caller]
    pub(crate) fn slow_down(&self, kbit: u32) {
        for machine in self.machines.values() {
            let shape =
                format!("qdisc add dev wire root tbf rate {kbit}kbit burst 32kb latency 400ms\n");
            machine.holder.feed("tc", &["-batch", "-"], &shape);
        }
    }

    /// What a node logged.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.place().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// A folder for files of the client.
    pub(crate) fn place(&self) -> &std::path::Path {
        self.place.place()
    }
}

impl Drop for Islands {
    fn drop(&mut self) {
        for (name, machine) in &mut self.machines {
            if let Some(mut daemon) = machine.daemon.take() {
                // It may have ended by itself.
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            if std::thread::panicking() {
                let path = self.place.place().join(format!("{name}.log"));
                let log = std::fs::read_to_string(path).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(8).collect();
                tail.iter().rev().for_each(|line| eprintln!("{name}: {line}"));
            }
        }
    }
}
