//! A master that joins a cluster which runs already.

use std::net::TcpListener;
use std::process::Stdio;

use cluster_tests::wait::until;

use crate::cluster::{Cluster, LONG, kill};

const SMALL: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"];

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

#[test]
fn masters_join_by_address_and_an_empty_folder_never_founds_a_cluster() {
    let cluster = Cluster::start(SMALL);
    let place = cluster.place();
    let master = cluster.leader("master").address;
    let write = |name: &str, masters: &str, more: &str| {
        let text = format!(
            "[node]\ndata = {:?}\nlisten = \"tcp://127.0.0.1:{}\"\nmasters = [{masters}]\n{more}",
            place.join(name),
            free_port()
        );
        std::fs::write(place.join(format!("{name}.toml")), text).unwrap();
    };
    write("second", &format!("{master:?}"), "");
    write("third", &format!("{master:?}"), "");
    write("alone", "", "");
    write("early", &format!("\"tcp://127.0.0.1:{}\"", free_port()), "");
    let other = "cluster = '00000000-0000-0000-0000-000000000001'\n";
    write("other", &format!("{master:?}"), other);
    for (name, exit, says) in [
        ("alone", 2, "nothing says which cluster to join"),
        ("early", 3, "no master answers at tcp://127.0.0.1:"),
        ("other", 1, "belongs to cluster"),
    ] {
        let said = cluster.run(&["cluster", "join", "--config", &format!("{name}.toml")]);
        assert_eq!((said.exit, &*said.stdout), (exit, ""), "{name}: {said:?}");
        assert!(said.stderr.contains(says), "{name}: {said:?}");
        assert!(!place.join(name).join("consensus").exists(), "{name} became a member");
    }
    let joined = cluster.run(&["cluster", "join", "--config", "second.toml"]).ok();
    let again = cluster.run(&["cluster", "join", "--config", "second.toml"]);
    assert_eq!(again.exit, 2, "{again:?}");
    let same = format!("a master of cluster {} already", joined.trim());
    assert!(again.stderr.contains(&same), "{again:?}");

    // The second and third become voters together. The third joins by being started; both end with
    // this test, however that ends.
    let parent = std::process::id().to_string();
    let start = |config: &str| {
        let arguments = ["serve", "master", "--config", config, "--parent", &parent];
        let mut command = cluster.command(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let started = [start("second.toml"), start("third.toml")];
    until("three masters", LONG, || {
        let nodes = cluster.run(&["nodes", "--json"]).json();
        let masters = nodes.as_array().unwrap().iter().filter(|it| it["tier"] == "master").count();
        (masters == 3).then_some(())
    });
    for mut master in started {
        kill(master.id());
        master.wait().unwrap();
    }
}
