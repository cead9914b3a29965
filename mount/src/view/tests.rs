//! Whose readers did not get what they asked for: jobs against a storage that gives some of it.

use std::sync::mpsc::channel;

use proto::digest::Digest;
use proto::status::BlockKind;

use super::*;
use crate::blocks::Blocks;
use crate::cache::Cache;
use crate::logic::inputs::INPUTS;
use crate::workers::Workers;

/// Has one block, does not give another one at present, and knows no others.
struct Shelf {
    here: (BlockName, Bytes),
    out: BlockName,
}

impl crate::origin::Origin for Shelf {
    fn block(&self, name: BlockName) -> Result<Bytes, OriginError> {
        match name {
            name if name == self.here.0 => Ok(self.here.1.clone()),
            name if name == self.out => Err(OriginError::Failed("no answer".to_owned())),
            _ => Err(OriginError::Absent),
        }
    }

    fn length(&self, _: FileId) -> Result<u64, OriginError> {
        Err(OriginError::Absent)
    }

    fn name(&self, _: &str) -> Result<Named, OriginError> {
        Err(OriginError::Absent)
    }

    fn names(&self, _: &str) -> Result<(Vec<Named>, bool), OriginError> {
        Ok((Vec::new(), false))
    }

    fn inputs(&self, _: JobId) -> Result<Vec<(String, InputShown)>, OriginError> {
        Err(OriginError::Absent)
    }
}

const CONTENT: &[u8] = b"content";
const OUT: FileId = FileId(1);

fn view(folder: &std::path::Path) -> (Arc<View>, FileId) {
    view_with_room(folder, 100)
}

/// With room for so many operations that wait.
fn view_with_room(folder: &std::path::Path, room: usize) -> (Arc<View>, FileId) {
    let here = Digest::of(BlockKind::Content, CONTENT).block_id();
    let name = |file: FileId| BlockName::content(BlockId(file.0));
    let file = FileId(here.0);
    let shelf = Shelf { here: (name(file), Bytes::from_static(CONTENT)), out: name(OUT) };
    let origin: Arc<dyn crate::origin::Origin> = Arc::new(shelf);
    let (cache, _, found) = Cache::open(folder).unwrap();
    let workers = |name, room| Workers::start(name, 2, room).unwrap();
    let fetch = workers("test-fetch", 100);
    let blocks = Blocks::new(cache, found, 1 << 20, Arc::clone(&origin), fetch);
    let files = Files::new(Arc::new(blocks), origin, workers("test-lookup", room));
    (Arc::new(View::new(Arc::new(files), (0, 0))), file)
}

fn look(view: &Arc<View>, folder: Inode, name: &str) -> Result<Inode, Refusal> {
    let (sender, found) = channel();
    view.lookup(folder, name.as_bytes(), move |it| sender.send(it).unwrap());
    match found.recv().unwrap()? {
        Found::Entry(entry) => Ok(Inode(entry.attributes.ino.0)),
        Found::Nothing => Err(Refusal::NoEntry),
    }
}

/// Adds a job with one input, and looks for that.
fn input(view: &Arc<View>, job: u128, input: InputShown) -> Inode {
    let job = JobId(job);
    view.add_job(job, &[("a".to_owned(), input)]).unwrap();
    let path = [job.to_string(), INPUTS.to_owned(), "a".to_owned()];
    path.iter().fold(Inode::JOBS, |folder, name| look(view, folder, name).unwrap())
}

fn read(view: &Arc<View>, inode: Inode) -> Result<Bytes, Refusal> {
    let (sender, bytes) = channel();
    view.read(inode, 0, 100, move |it| sender.send(it).unwrap());
    bytes.recv().unwrap()
}

#[test]
fn what_storage_does_not_give_counts_for_the_job_whose_input_it_is() {
    let place = tempfile::tempdir().unwrap();
    let (view, here) = view(place.path());
    let file = |file| InputShown::File { file, length: 7, is_executable: false };
    let tree = InputShown::Tree { tree: OUT, length: 7 };
    let [good, out, absent] =
        [(1, here), (2, OUT), (3, FileId(2))].map(|(job, it)| input(&view, job, file(it)));
    let folder = input(&view, 4, tree);
    assert_eq!(read(&view, good).unwrap(), CONTENT);
    assert_eq!(read(&view, out), Err(Refusal::Unavailable));
    assert_eq!(read(&view, absent), Err(Refusal::Failed), "another attempt gets the same");
    assert_eq!(look(&view, folder, "x"), Err(Refusal::Unavailable));
    let counts = || [1, 2, 3, 4, 5].map(|job| view.failure_count(JobId(job)));
    assert_eq!(counts(), [0, 1, 0, 1, 0]);
    view.remove_job(JobId(2));
    assert_eq!(counts(), [0, 0, 0, 1, 0]);
}

#[test]
fn who_is_refused_for_want_of_room_is_told_and_counted() {
    let place = tempfile::tempdir().unwrap();
    let (view, _) = view_with_room(place.path(), 0);
    // Of two blocks: its manifest has to be brought first.
    let length = proto::limits::BLOCK_BYTES as u64 + 1;
    let large = input(&view, 1, InputShown::File { file: OUT, length, is_executable: false });
    assert_eq!(read(&view, large), Err(Refusal::Unavailable));
    assert_eq!(view.failure_count(JobId(1)), 1);
}
