//! Publications that get lost, come twice, late or damaged, and what a subscriber makes of them.

use super::*;

const NODE: NodeId = NodeId(7);
const NOW: Instant = Instant(1_000_000);

fn publications(incarnation: u64) -> Publications {
    Publications::new(NODE, Role::Worker, Incarnation(incarnation))
}

/// Feeds one record and says what came of it: `ask`, or `incarnation.sequence news`.
fn fed(updates: &mut Updates, now: Instant, bytes: &[u8]) -> Vec<String> {
    let mut effects = Vec::new();
    let record = Records::of(bytes).next().unwrap().unwrap();
    if record.message_type() == TelemetrySnapshot::NUMBER {
        // Its node is stamped by the connection that it travels on.
        let mut bytes = bytes.to_vec();
        record::stamp(&mut bytes, NODE, 1, 1);
        let record = Records::of(&bytes).next().unwrap().unwrap();
        updates.snapshot(&record, &mut effects).unwrap();
    } else {
        updates.publication(now, &record, &mut effects).unwrap();
    }
    updates.check_invariants();
    said(&effects)
}

fn said(effects: &[UpdateEffect]) -> Vec<String> {
    let one = |effect: &UpdateEffect| match effect {
        UpdateEffect::Ask(_) => "ask".into(),
        UpdateEffect::Deliver(Update { incarnation, sequence, news, .. }) => match news {
            News::Status(json) => {
                format!("{incarnation}.{sequence} {}", String::from_utf8_lossy(json))
            }
            News::Alert { level, text } => format!("{incarnation}.{sequence} {level:?}: {text}"),
        },
    };
    effects.iter().map(one).collect()
}

fn ticked(updates: &mut Updates, now: Instant) -> Vec<String> {
    let mut effects = Vec::new();
    updates.tick(now, &mut effects);
    updates.check_invariants();
    said(&effects)
}

#[test]
fn in_order_everything_is_delivered_and_nothing_asked() {
    let (mut from, mut to) = (publications(3), Updates::new());
    let first = from.status(b"{}").to_vec();
    assert_eq!(fed(&mut to, NOW, &first), ["3.1 {}"]);
    assert_eq!(fed(&mut to, NOW, from.alert(AlertLevel::Act, "fire")), ["3.2 Act: fire"]);
    assert_eq!(fed(&mut to, NOW, &first), [""; 0]);
    assert_eq!(to.next_deadline(), None);
    let counters = UpdateCounters { delivered: 2, stale: 1, ..Default::default() };
    assert_eq!(to.counters(), counters);
}

#[test]
fn a_gap_is_closed_by_a_snapshot_and_each_is_delivered_once() {
    let (mut from, mut to) = (publications(1), Updates::new());
    assert_eq!(fed(&mut to, NOW, from.status(b"a")), ["1.1 a"]);
    from.status(b"lost");
    from.alert(AlertLevel::Unexpected, "lost too");
    assert_eq!(fed(&mut to, NOW, from.status(b"d")), ["ask"]);
    assert_eq!(fed(&mut to, NOW, from.alert(AlertLevel::Change, "e")), [""; 0]);
    let snapshot = from.snapshot(RequestId(1));
    // Published after the snapshot was made, and here before it.
    assert_eq!(fed(&mut to, NOW, from.alert(AlertLevel::Change, "f")), [""; 0]);
    assert_eq!(
        fed(&mut to, NOW, &snapshot),
        ["1.3 Unexpected: lost too", "1.4 d", "1.5 Change: e", "1.6 Change: f"]
    );
    assert_eq!(to.next_deadline(), None);
    assert_eq!(fed(&mut to, NOW, from.status(b"g")), ["1.7 g"]);
    // A second copy says nothing new.
    assert_eq!(fed(&mut to, NOW, &snapshot), [""; 0]);
    assert_eq!(to.counters().gaps, 1);
}

#[test]
fn a_gap_that_fills_by_itself_needs_no_answer() {
    let (mut from, mut to) = (publications(1), Updates::new());
    let one = from.status(b"1").to_vec();
    let two = from.status(b"2").to_vec();
    assert_eq!(fed(&mut to, NOW, &two), ["ask"]);
    assert_eq!(fed(&mut to, NOW, &one), ["1.1 1", "1.2 2"]);
    assert_eq!(to.next_deadline(), None);
}

#[test]
fn a_snapshot_without_gap_is_the_beginning() {
    let (mut from, mut to) = (publications(2), Updates::new());
    for at in 0..ALERTS_KEPT + 5 {
        from.alert(AlertLevel::Change, &at.to_string());
    }
    let mut effects = Vec::new();
    to.connected(NOW, NODE, &mut effects);
    assert_eq!(said(&effects), ["ask"]);
    let delivered = fed(&mut to, NOW, &from.snapshot(RequestId(1)));
    assert_eq!(delivered.len(), ALERTS_KEPT);
    assert_eq!(delivered[0], "2.6 Change: 5");
    assert_eq!(fed(&mut to, NOW, from.status(b"s")), ["2.106 s"]);
    // A node that has published nothing answers too, and is asked no further.
    let mut to = Updates::new();
    to.connected(NOW, NODE, &mut Vec::new());
    assert_eq!(fed(&mut to, NOW, &publications(2).snapshot(RequestId(1))), [""; 0]);
    assert_eq!(to.next_deadline(), None);
}

#[test]
fn a_restart_begins_anew_and_the_predecessor_is_stale() {
    let (mut old, mut new, mut to) = (publications(4), publications(5), Updates::new());
    fed(&mut to, NOW, old.status(b"old"));
    old.status(b"lost");
    assert_eq!(fed(&mut to, NOW, old.status(b"behind a gap")), ["ask"]);
    assert_eq!(fed(&mut to, NOW, new.status(b"new")), ["5.1 new"]);
    assert_eq!(to.next_deadline(), None);
    assert_eq!(fed(&mut to, NOW, old.status(b"late")), [""; 0]);
    assert_eq!(fed(&mut to, NOW, &old.snapshot(RequestId(1))), [""; 0]);
    let counters = to.counters();
    assert_eq!((counters.restarts, counters.stale), (1, 2));
    // A snapshot may be the first sign of the restart.
    let mut third = publications(6);
    third.status(b"third");
    assert_eq!(fed(&mut to, NOW, &third.snapshot(RequestId(2))), ["6.1 third"]);
}

#[test]
fn who_does_not_answer_is_asked_ever_less_until_it_is_heard_again() {
    let (mut from, mut to) = (publications(1), Updates::new());
    from.status(b"lost");
    assert_eq!(fed(&mut to, NOW, from.status(b"2")), ["ask"]);
    let mut waits = Vec::new();
    let mut now = NOW;
    while let Some(due) = to.next_deadline() {
        assert_eq!(ticked(&mut to, Instant(due.0 - 1)), [""; 0]);
        waits.push(due.since(now).as_millis() / 1000);
        now = due;
        ticked(&mut to, now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8, 8]);
    assert_eq!(to.counters().asked, u64::from(REQUESTS));
    assert_eq!(fed(&mut to, now, from.status(b"3")), ["ask"]);
    assert_eq!(fed(&mut to, now, &from.snapshot(RequestId(1))), ["1.3 3"]);
}

#[test]
fn what_is_held_is_bounded_and_covered_later() {
    let (mut from, mut to) = (publications(1), Updates::new());
    from.status(b"lost");
    for _ in 0..HELD + 10 {
        fed(&mut to, NOW, from.status(b"held"));
    }
    assert_eq!(to.counters().not_held, 10);
    let last = from.last_sequence;
    assert_eq!(fed(&mut to, NOW, &from.snapshot(RequestId(1))), [format!("1.{last} held")]);
    assert_eq!(to.held_bytes, 0);

    let (mut from, mut to) = (publications(1), Updates::new());
    from.status(b"lost");
    for _ in 0..HELD {
        fed(&mut to, NOW, from.status(&vec![b' '; STATUS_BYTES]));
    }
    assert_eq!(to.counters().not_held, 32);
    to.forget(NODE);
    to.check_invariants();
    assert_eq!((to.held_bytes, to.next_deadline()), (0, None));
}

#[test]
fn followed_nodes_are_bounded() {
    let mut to = Updates::new();
    for node in 0..PUBLISHERS as u128 + 3 {
        let mut from = Publications::new(NodeId(node), Role::Storage, Incarnation(1));
        let record = from.status(b"{}").to_vec();
        let record = Records::of(&record).next().unwrap().unwrap();
        to.publication(NOW, &record, &mut Vec::new()).unwrap();
    }
    to.check_invariants();
    assert_eq!(to.counters().not_followed, 3);
}

#[test]
fn long_alerts_are_cut_between_characters() {
    let (mut from, mut to) = (publications(1), Updates::new());
    let text = format!("x{}", "ä".repeat(limits::ERROR_TEXT_BYTES));
    let delivered = fed(&mut to, NOW, from.alert(AlertLevel::Act, &text));
    assert_eq!(delivered[0].len(), "1.1 Act: ".len() + limits::ERROR_TEXT_BYTES - 1);
}

#[test]
fn damaged_records_change_nothing_but_what_they_say() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut from = publications(2);
    from.status(br#"{"slots":2}"#);
    from.alert(AlertLevel::Act, "disk full");
    let mut snapshot = from.snapshot(RequestId(9));
    record::stamp(&mut snapshot, NODE, 1, 1);
    let whole = [from.status(b"{}").to_vec(), from.alert(AlertLevel::Act, "x").to_vec(), snapshot];
    let (mut accepted, mut refused) = (0, 0);
    let mut to = Updates::new();
    for _ in 0..20_000 {
        let mut bytes = rng.choice(&whole).unwrap().clone();
        for _ in 0..rng.u8(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] = if rng.bool() { rng.u8(..) } else { bytes[at] ^ (1 << rng.u8(..8)) };
        }
        let Some(Ok(record)) = Records::of(&bytes).next() else {
            refused += 1;
            continue;
        };
        let mut effects = Vec::new();
        let result = match record.message_type() {
            TelemetrySnapshot::NUMBER => to.snapshot(&record, &mut effects),
            _ => to.publication(NOW, &record, &mut effects),
        };
        if result.is_ok() {
            accepted += 1
        } else {
            refused += 1
        }
        assert!(result.is_ok() || effects.is_empty());
    }
    to.check_invariants();
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

/// Publications, requests and answers get lost and the publisher restarts; once nothing is lost any
/// more, the subscriber knows the newest status and has had every alert that was kept, each once.
#[test]
fn under_loss_the_subscriber_ends_with_what_the_publisher_has() {
    let (mut lost, mut restarts, mut gaps) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut from = publications(1);
        let mut to = Updates::new();
        let mut now = NOW;
        let mut handed_on = Vec::new();
        let mut kept: Vec<String> = Vec::new();
        let mut status = String::new();
        // What is on its way: the subscriber's requests and the publisher's answers.
        let mut requests = 0;
        let mut arriving: VecDeque<Vec<u8>> = VecDeque::new();
        let steps = 300;
        for step in 0..steps + 20 {
            let lossy = step < steps;
            if lossy && rng.u8(..) < 4 {
                from = publications(from.incarnation.0 + 1);
                kept.clear();
                restarts += 1;
            }
            let published = if lossy && rng.bool() {
                let text = format!("alert {step}");
                let record = from.alert(AlertLevel::Change, &text).to_vec();
                kept.push(format!("{}.{} Change: {text}", from.incarnation, from.last_sequence));
                record
            } else {
                let json = format!("status {step}");
                let record = from.status(json.as_bytes()).to_vec();
                status = format!("{}.{} {json}", from.incarnation, from.last_sequence);
                record
            };
            let mut delivered = Vec::new();
            if lossy && rng.u8(..) < 60 {
                lost += 1;
            } else {
                delivered.extend(fed(&mut to, now, &published));
            }
            now += Duration::from_millis(rng.u64(100..2_000));
            delivered.extend(ticked(&mut to, now));
            while requests > 0 {
                requests -= 1;
                if !(lossy && rng.u8(..) < 80) {
                    arriving.push_back(from.snapshot(RequestId(1)));
                }
            }
            while !arriving.is_empty() && (!lossy || rng.bool()) {
                let snapshot = arriving.pop_front().unwrap();
                delivered.extend(fed(&mut to, now, &snapshot));
            }
            for one in delivered {
                match one.as_str() {
                    "ask" => requests += 1,
                    one if one.contains("status") => handed_on.push((false, one.to_owned())),
                    one => handed_on.push((true, one.to_owned())),
                }
            }
        }
        let newest = handed_on.iter().rfind(|(alert, _)| !alert).map(|(_, text)| text.clone());
        assert_eq!(newest.unwrap(), status, "seed {seed}");
        let had: Vec<String> = handed_on
            .iter()
            .filter(|(alert, text)| *alert && text.starts_with(&format!("{}.", from.incarnation)))
            .map(|(_, text)| text.clone())
            .collect();
        kept.drain(..kept.len().saturating_sub(ALERTS_KEPT));
        let had_of_kept: Vec<_> = had.iter().filter(|text| kept.contains(text)).cloned().collect();
        assert_eq!(had_of_kept, kept, "seed {seed}");
        gaps += to.counters().gaps;
    }
    assert!(lost > 1_000 && restarts > 100 && gaps > 1_000, "{lost} {restarts} {gaps}");
}
