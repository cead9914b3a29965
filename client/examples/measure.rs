//! Throwaway measurement.
use std::time::Instant;
fn main() {
    let found = client::find::Surroundings::of_process(None).find().unwrap();
    let client = client::Client::connect(found.addresses).unwrap();
    let count: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let seed: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    #[expect(clippy::disallowed_methods, reason = "throwaway")]
    let began = Instant::now();
    let puts: Vec<_> = (0..count)
        .map(|at| {
            let mut content = vec![seed as u8; 4096];
            content[..4].copy_from_slice(&at.to_le_bytes());
            client.begin_put_bytes(content).unwrap()
        })
        .collect();
    let files: Vec<_> = puts
        .into_iter()
        .map(|(file, begun)| {
            begun.wait().unwrap().unwrap();
            file
        })
        .collect();
    println!("put {count}: {:?}", began.elapsed());
    #[expect(clippy::disallowed_methods, reason = "throwaway")]
    let began = Instant::now();
    let gets: Vec<_> =
        files.iter().map(|file| client.begin_get(*file, 0..u64::MAX, 1 << 20)).collect();
    for (at, get) in gets.into_iter().enumerate() {
        let content = get.wait().unwrap().unwrap();
        assert_eq!(content.len(), 4096);
        assert_eq!(content[..4], (at as u32).to_le_bytes());
    }
    println!("got {count}: {:?}", began.elapsed());
    let page = client.keys(b"", b"", 10);
    println!("{page:?}");
    let written = client.transact(
        vec![client::logic::jobs::Compare { key: b"user/x".to_vec(), version: Default::default() }],
        vec![client::logic::jobs::Write { key: b"user/x".to_vec(), value: Some(b"1".to_vec()) }],
    );
    println!("{written:?} {:?}", client.keys(b"user/", b"", 10));
}
