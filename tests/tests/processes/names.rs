//! A job whose input is given by name gets what the name points to when the job is accepted.

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use proto::description::{Input, InputSource, JobDescription, Noop, Runtime};
use proto::ids::{FileId, JobId};

use crate::cluster::Cluster;

const SHAPE: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"];

fn submission(job: u128, name: &str) -> Submission {
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    let source = InputSource::Name(name.to_owned());
    description.inputs.push(Input { name: "data".to_owned(), source });
    Submission::new(JobId(job), &description, 1, Vec::new()).expect("a short one")
}

/// The file that a job's input is.
#[track_caller]
fn input(client: &Client, job: u128) -> FileId {
    let described = client.describe(JobSelector::Id(JobId(job))).expect("the job is there");
    assert_eq!((described.job, described.task_count), (JobId(job), 1));
    match &described.description.inputs[..] {
        [Input { source: InputSource::File { file, length, .. }, .. }] => {
            assert_eq!((*length, &described.input_files[..]), (3, std::slice::from_ref(file)));
            *file
        }
        other => panic!("one file is expected, not {other:?}"),
    }
}

#[test]
fn a_job_keeps_the_file_that_its_input_was_named_after() {
    let cluster = Cluster::start(SHAPE);
    let master = cluster.leader("master");
    let client = Client::connect(vec![master.address]).expect("a client");
    let put = |content: &str| {
        std::fs::write(cluster.place().join("data"), content).expect("write a file");
        cluster.run(&["put", "data", "set"]).ok();
        client.name("set").expect("the name is set").pointer.file
    };

    // A name is given as it is written elsewhere, too.
    std::fs::write(cluster.place().join("data"), "0").expect("write a file");
    cluster.run(&["put", "data", "name:other"]).ok();
    assert!(client.name("other").is_ok() && client.name("name:other").is_err());

    let refused = client.submit(submission(1, "set")).expect_err("there is no such name");
    assert!(refused.to_string().contains("`remuda put PATH set`"), "{refused}");

    let one = put("one");
    let index = client.submit(submission(1, "set")).expect("it is accepted");
    let two = put("two");
    assert_ne!(one, two);
    assert_eq!(client.submit(submission(1, "set")).expect("it is the same job"), index);
    client.submit(submission(2, "set")).expect("it is accepted");
    assert_eq!((input(&client, 1), input(&client, 2)), (one, two));
    // From the disk as well.
    cluster.stop();
    cluster.dev(SHAPE).ok();
    let master = cluster.leader("master");
    let client = Client::connect(vec![master.address]).expect("a client");
    assert_eq!((input(&client, 1), input(&client, 2)), (one, two));
    assert_eq!(client.submit(submission(1, "set")).expect("it is the same job"), index);
}
