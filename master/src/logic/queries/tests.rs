//! Answers of several pages: where each ends, and that the next one goes on there.

use proto::ids::LogIndex;

use super::*;
use crate::logic::commands::Write;

/// The keys of a page, and whether it says that there are more.
fn page(cluster: &Cluster, after: &[u8], limit: usize) -> (Vec<Vec<u8>>, bool) {
    let mut records = keys(cluster, b"k", after, limit);
    let read = |bytes: &[u8]| {
        let record = Records::of(bytes).next().unwrap().unwrap();
        let (_, [key, _]) = record.open::<KeyEntry, 2>().unwrap();
        key.to_vec()
    };
    let end = records.pop().unwrap();
    let end = Records::of(&end).next().unwrap().unwrap().read::<ListEnd>().unwrap();
    assert_eq!({ end.count }, records.len() as u64);
    (records.iter().map(|it| read(it)).collect(), end.next != 0)
}

#[test]
fn a_page_of_keys_ends_by_its_bytes_and_the_next_one_goes_on() {
    let key = |number: usize| format!("k{number:04}").into_bytes();
    let value = vec![7; ANSWER_BYTES / 10];
    let mut cluster = Cluster::default();
    let put = |number: usize| Write { key: key(number), value: Some(value.clone()) };
    cluster.keyspace.transact(&[], (0..35).map(put).collect(), LogIndex(3));
    let (mut after, mut sizes, mut found) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let (keys, is_more) = page(&cluster, &after, ANSWER_RECORDS);
        sizes.push(keys.len());
        after = keys.last().cloned().unwrap_or_default();
        found.extend(keys);
        if !is_more {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 10, 5]);
    assert_eq!(found, (0..35).map(key).collect::<Vec<_>>());
    assert_eq!(page(&cluster, b"", 3), ((0..3).map(key).collect(), true));

    // One that is larger than a page is a page.
    let large = Write { key: key(0), value: Some(vec![7; 2 * ANSWER_BYTES]) };
    cluster.keyspace.transact(&[], vec![large], LogIndex(4));
    assert_eq!(page(&cluster, b"", ANSWER_RECORDS), (vec![key(0)], true));
}
