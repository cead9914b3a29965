//! What a path means: the folders of the mount, the parts below them, and their attributes.
//!
//! Every operation hands its answer to a closure: on the caller's thread where all is known, else on
//! one that may wait. Which inode is what is decided in `logic/inodes.rs`, what a tree contains in
//! `logic/tree.rs`; bytes are `files.rs`'s. Links are shown as they stand: the kernel follows them,
//! also out of the mount.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use client::Named;
use fuser::{FileAttr, FileType, INodeNo};
use proto::ids::{BlockId, FileId, JobId};
use proto::limits::NAME_BYTES;
use proto::tree::ModificationTime;

use crate::cache::BlockName;
use crate::files::{Files, Recognised};
use crate::logic::inodes::{Inode, Inodes, Origin, Part, PartId, Source};
use crate::logic::inputs::{InputShown, NotShowable, tree_of};
use crate::logic::listing::Listing;
use crate::logic::read_ahead::ReadAhead;
use crate::logic::tree::{FILE_MODE, FOLDER_MODE, Item, LINK_MODE, NO_TIME, Tree, What};
use crate::origin::OriginError;
use crate::refusal::Refusal;

/// How long the kernel keeps what never changes: a year, which is as good as without end.
pub(crate) const UNCHANGING: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How long it keeps what somebody may change.
const CHANGING: Duration = Duration::from_secs(1);

/// What folders are said to take, as on most file systems.
const FOLDER_BYTES: u64 = 4_096;

/// Permission bits of a file that is shown by its UUID: nobody knows more of it.
const BY_UUID_MODE: u16 = 0o444;

/// Names that are listed; who has more asks for them by name.
const NAMES: usize = 100_000;

/// Files up to this size are read ahead together with others of their folder (eyeballed: below it
/// the round trip costs more than the bytes).
const SMALL_BYTES: u64 = 64 << 10;

/// Small files of a folder that are read ahead of one who begins there: who reads one of them mostly
/// reads others, and all of them together are less than one block.
const AHEAD_FIRST: u32 = 16;

/// The same for one who reads one after the other.
const AHEAD_FILES: u32 = 64;

/// Folders of which it is remembered who reads their files.
const AHEAD_FOLDERS: usize = 1_024;

/// An inode with all that is said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) attributes: FileAttr,
    /// How long the name leads there.
    pub(crate) lives: Duration,
}

/// What came of a lookup.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// This.
    Entry(Entry),
    /// Nothing, and there never will be.
    Nothing,
}

/// Takes the entries of a folder.
pub(crate) trait Sink: Send + 'static {
    /// True where an entry counts as looked up.
    const LOOKS_UP: bool;

    /// Takes an entry; true where it had no room for it. `next` is where the list goes on.
    fn add(&mut self, next: u64, name: &[u8], entry: &Entry) -> bool;

    /// There are no more, or no more room.
    fn end(self, refused: Result<(), Refusal>);
}

/// All that is shown.
pub(crate) struct View {
    files: Arc<Files>,
    inodes: Mutex<Inodes>,
    names: Mutex<Listing<Named>>,
    jobs: Mutex<Listing<JobId>>,
    siblings: Mutex<ReadAhead<Inode>>,
    /// How often a reader did not get what a job that was added has as its input.
    failures: Mutex<BTreeMap<JobId, u64>>,
    /// To whom everything belongs.
    owner: (u32, u32),
}

// Each change under these locks is whole before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl View {
    pub(crate) fn new(files: Arc<Files>, owner: (u32, u32)) -> View {
        View {
            files,
            inodes: Mutex::default(),
            names: Mutex::default(),
            jobs: Mutex::default(),
            siblings: Mutex::new(ReadAhead::new(AHEAD_FIRST, AHEAD_FILES, AHEAD_FOLDERS)),
            failures: Mutex::default(),
            owner,
        }
    }

    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Shows the inputs of a job until [`View::remove_job`]. True where others were shown before,
    /// which the kernel may still know.
    pub(crate) fn add_job(
        &self,
        job: JobId,
        inputs: &[(String, InputShown)],
    ) -> Result<bool, NotShowable> {
        let source = Source::Given(Arc::new(tree_of(inputs)?));
        let origin = Origin::Job(job);
        let mut inodes = lock(&self.inodes);
        let known = inodes.find(&origin).and_then(|part| inodes.part(part));
        let is_another = known.is_some_and(|part| part.source != source);
        if is_another {
            inodes.release(&origin);
        }
        let part = inodes.enter(origin, || job_part(source));
        inodes.keep(part);
        lock(&self.failures).entry(job).or_default();
        Ok(is_another)
    }

    /// Ends [`View::add_job`]; false where the job was not shown.
    pub(crate) fn remove_job(&self, job: JobId) -> bool {
        lock(&self.failures).remove(&job);
        lock(&self.inodes).release(&Origin::Job(job)).is_some()
    }

    /// How often a reader of a job's inputs was refused what another attempt may get, since the job
    /// was added.
    pub(crate) fn failure_count(&self, job: JobId) -> u64 {
        lock(&self.failures).get(&job).copied().unwrap_or(0)
    }

    /// Counts a refusal for the job whose inputs a part is of, where it is of any.
    fn count<T>(&self, part: PartId, answer: &Result<T, Refusal>) {
        if !matches!(answer, Err(Refusal::Unavailable)) {
            return;
        }
        let job = lock(&self.inodes).job_of(part);
        if let Some(job) = job
            && let Some(failures) = lock(&self.failures).get_mut(&job)
        {
            *failures += 1;
        }
    }

    /// Looks a name up in a folder. What is found counts as told to the kernel.
    pub(crate) fn lookup(
        self: &Arc<View>,
        folder: Inode,
        name: &[u8],
        then: impl FnOnce(Result<Found, Refusal>) + Send + 'static,
    ) {
        if name.len() > NAME_BYTES {
            return then(Err(Refusal::NameTooLong));
        }
        if let Some((part, number)) = folder.place() {
            let (view, name) = (Arc::clone(self), name.to_owned());
            return self.with_tree(part, move |tree| {
                then(tree.and_then(|tree| view.child(part, &tree, number, &name)));
            });
        }
        match folder {
            Inode::ROOT => then(Ok(self.own_folder(name))),
            Inode::FILES => match canonical::<FileId>(name) {
                Some(file) => self.lookup_file(file, then),
                None => then(Ok(Found::Nothing)),
            },
            Inode::NAMES => match std::str::from_utf8(name) {
                Ok(name) => self.lookup_name(name.to_owned(), then),
                Err(_) => then(Ok(Found::Nothing)),
            },
            Inode::JOBS => match canonical::<JobId>(name) {
                Some(job) => self.lookup_job(job, then),
                None => then(Ok(Found::Nothing)),
            },
            _ => then(Err(Refusal::Unknown)),
        }
    }

    fn own_folder(&self, name: &[u8]) -> Found {
        let folder = OWN_FOLDERS.iter().find(|(own, _)| own.as_bytes() == name);
        folder.map_or(Found::Nothing, |(_, inode)| Found::Entry(self.own_entry(*inode)))
    }

    /// An entry that leads to a folder of the mount itself.
    fn own_entry(&self, inode: Inode) -> Entry {
        let lives = match inode {
            Inode::NAMES | Inode::JOBS => CHANGING,
            _ => UNCHANGING,
        };
        Entry { attributes: self.own_attributes(inode), lives }
    }

    fn own_attributes(&self, inode: Inode) -> FileAttr {
        let attributes = self.folder(inode, FOLDER_MODE, None);
        match inode {
            // The kernel keeps a list for as long as its folder's time is the same.
            Inode::NAMES | Inode::JOBS => {
                let now = UNIX_EPOCH + node::clock::time_of_day().to_std();
                FileAttr { atime: now, mtime: now, ctime: now, ..attributes }
            }
            _ => attributes,
        }
    }

    fn child(&self, part: PartId, tree: &Tree, folder: u32, name: &[u8]) -> Result<Found, Refusal> {
        if tree.children(folder).is_none() {
            return Err(Refusal::NotAFolder);
        }
        let Some(number) = tree.child(folder, name) else {
            return Ok(Found::Nothing);
        };
        let entry = self.entry(part, tree, number).ok_or(Refusal::Unknown)?;
        self.looked_up(&entry);
        Ok(Found::Entry(entry))
    }

    fn looked_up(&self, entry: &Entry) {
        lock(&self.inodes).looked_up(Inode(entry.attributes.ino.0));
    }

    /// An entry of a tree. One that is a tree file of its own is a part from now on.
    fn entry(&self, part: PartId, tree: &Tree, number: u32) -> Option<Entry> {
        let item = tree.item(number)?;
        let inode = Inode::of(part, number);
        let attributes = match &item.what {
            What::Tree { tree, length } => {
                let source = Source::Stored { tree: *tree, length: Some(*length) };
                let parent = Inode::of(part, item.parent);
                let (mode, modified) = (item.mode, item.modified);
                let part = lock(&self.inodes).enter(Origin::Inside(inode), || Part {
                    source,
                    parent,
                    mode,
                    modified,
                });
                self.folder(Inode::of(part, 0), mode, modified)
            }
            What::File { .. } | What::Link { .. } | What::Folder { .. } => self.item(inode, item),
        };
        Some(Entry { attributes, lives: UNCHANGING })
    }

    fn item(&self, inode: Inode, item: &Item) -> FileAttr {
        match &item.what {
            What::File { length, .. } => {
                self.attributes(inode, FileType::RegularFile, item.mode, *length, item.modified)
            }
            What::Link { target } => {
                let length = target.len() as u64;
                self.attributes(inode, FileType::Symlink, LINK_MODE, length, item.modified)
            }
            What::Folder { .. } | What::Tree { .. } => self.folder(inode, item.mode, item.modified),
        }
    }

    fn folder(&self, inode: Inode, mode: u16, modified: Option<ModificationTime>) -> FileAttr {
        self.attributes(inode, FileType::Directory, mode, FOLDER_BYTES, modified)
    }

    fn attributes(
        &self,
        inode: Inode,
        kind: FileType,
        mode: u16,
        length: u64,
        modified: Option<ModificationTime>,
    ) -> FileAttr {
        let time = system_time(modified.unwrap_or(NO_TIME));
        FileAttr {
            ino: INodeNo(inode.0),
            size: length,
            blocks: length.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: mode,
            // For folders it means that their number of folders is not told.
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            // Programs that go by it read as much at once.
            blksize: 1 << 17,
            flags: 0,
        }
    }

    fn root_attributes(&self, id: PartId, part: &Part) -> FileAttr {
        let inode = Inode::of(id, 0);
        let root = match &part.source {
            Source::Given(tree) => tree.item(0),
            Source::Stored { .. } => None,
        };
        match root {
            Some(item @ Item { what: What::File { .. }, .. }) => self.item(inode, item),
            _ => self.folder(inode, part.mode, part.modified),
        }
    }

    /// An entry that leads to a part's root.
    fn enter(&self, origin: Origin, lives: Duration, make: impl FnOnce() -> Part) -> Option<Entry> {
        let mut inodes = lock(&self.inodes);
        let id = inodes.enter(origin, make);
        let attributes = self.root_attributes(id, inodes.part(id)?);
        Some(Entry { attributes, lives })
    }

    /// As [`View::enter`], for an answer to a lookup.
    fn found(
        &self,
        origin: Origin,
        lives: Duration,
        make: impl FnOnce() -> Part,
    ) -> Result<Found, Refusal> {
        let mut inodes = lock(&self.inodes);
        let id = inodes.enter(origin, make);
        let part = inodes.part(id).ok_or(Refusal::Unknown)?;
        let attributes = self.root_attributes(id, part);
        inodes.looked_up(Inode::of(id, 0));
        Ok(Found::Entry(Entry { attributes, lives }))
    }

    /// What is found where the part is known already.
    fn known(&self, origin: &Origin, lives: Duration) -> Option<Found> {
        let mut inodes = lock(&self.inodes);
        let id = inodes.find(origin)?;
        let attributes = self.root_attributes(id, inodes.part(id)?);
        inodes.looked_up(Inode::of(id, 0));
        Some(Found::Entry(Entry { attributes, lives }))
    }

    fn lookup_file(
        self: &Arc<View>,
        file: FileId,
        then: impl FnOnce(Result<Found, Refusal>) + Send + 'static,
    ) {
        if let Some(found) = self.known(&Origin::File(file), UNCHANGING) {
            return then(Ok(found));
        }
        let view = Arc::clone(self);
        self.files.resolve(move || {
            let found = view.files.recognise(file).and_then(|recognised| {
                view.found(Origin::File(file), UNCHANGING, || match recognised {
                    Recognised::File(length) => {
                        let source =
                            Source::Given(Arc::new(Tree::of_file(file, length, BY_UUID_MODE)));
                        Part { source, parent: Inode::FILES, mode: BY_UUID_MODE, modified: None }
                    }
                    Recognised::Tree(length) => Part {
                        source: Source::Stored { tree: file, length: Some(length) },
                        parent: Inode::FILES,
                        mode: FOLDER_MODE,
                        modified: None,
                    },
                })
            });
            then(found);
        });
    }

    fn lookup_name(
        self: &Arc<View>,
        name: String,
        then: impl FnOnce(Result<Found, Refusal>) + Send + 'static,
    ) {
        let view = Arc::clone(self);
        self.files.resolve(move || match view.files.origin().name(&name) {
            Ok(named) => {
                let origin = Origin::Name(named.name.clone(), named.version);
                then(view.found(origin, CHANGING, || named_part(&named)));
            }
            Err(error) => then(Err(refused(&error, "a name", &name))),
        });
    }

    fn lookup_job(
        self: &Arc<View>,
        job: JobId,
        then: impl FnOnce(Result<Found, Refusal>) + Send + 'static,
    ) {
        if let Some(found) = self.known(&Origin::Job(job), CHANGING) {
            return then(Ok(found));
        }
        let view = Arc::clone(self);
        self.files.resolve(move || {
            let about = job.to_string();
            let inputs = view.files.origin().inputs(job);
            let tree = inputs.and_then(|inputs| {
                tree_of(&inputs).map_err(|error| OriginError::Failed(error.to_string()))
            });
            then(match tree {
                Ok(tree) => {
                    let source = Source::Given(Arc::new(tree));
                    view.found(Origin::Job(job), CHANGING, || job_part(source))
                }
                Err(error) => Err(refused(&error, "the inputs of a job", &about)),
            });
        });
    }

    /// Hands the tree of a part on: at once where it is known.
    fn with_tree(
        self: &Arc<View>,
        part: PartId,
        then: impl FnOnce(Result<Arc<Tree>, Refusal>) + Send + 'static,
    ) {
        let source = lock(&self.inodes).part(part).map(|part| part.source.clone());
        match source {
            None => then(Err(Refusal::Unknown)),
            Some(Source::Given(tree)) => then(Ok(tree)),
            Some(Source::Stored { tree, length }) => {
                let view = Arc::clone(self);
                self.files.with_tree(tree, length, move |tree| {
                    view.count(part, &tree);
                    then(tree);
                });
            }
        }
    }

    /// The kernel forgot an inode as often as it was told of it.
    pub(crate) fn forget(&self, inode: Inode, times: u64) {
        lock(&self.inodes).forget(inode, times);
    }

    /// What is said of an inode, and how long that holds.
    pub(crate) fn getattr(
        self: &Arc<View>,
        inode: Inode,
        then: impl FnOnce(Result<(FileAttr, Duration), Refusal>) + Send + 'static,
    ) {
        let Some((part, number)) = inode.place() else {
            return then(match inode {
                Inode::ROOT | Inode::FILES => Ok((self.own_attributes(inode), UNCHANGING)),
                Inode::NAMES | Inode::JOBS => Ok((self.own_attributes(inode), CHANGING)),
                _ => Err(Refusal::Unknown),
            });
        };
        if number == 0 {
            let inodes = lock(&self.inodes);
            let known = inodes.part(part).map(|known| self.root_attributes(part, known));
            drop(inodes);
            return then(known.map(|it| (it, UNCHANGING)).ok_or(Refusal::Unknown));
        }
        let view = Arc::clone(self);
        self.with_tree(part, move |tree| {
            then(tree.and_then(|tree| {
                let item = tree.item(number).ok_or(Refusal::Unknown)?;
                Ok((view.item(inode, item), UNCHANGING))
            }));
        });
    }

    /// The target of a link.
    pub(crate) fn readlink(
        self: &Arc<View>,
        inode: Inode,
        then: impl FnOnce(Result<&[u8], Refusal>) + Send + 'static,
    ) {
        let Some((part, number)) = inode.place() else {
            return then(Err(Refusal::NotALink));
        };
        self.with_tree(part, move |tree| match tree {
            Ok(tree) => then(match tree.item(number).map(|item| &item.what) {
                Some(What::Link { target }) => Ok(target),
                Some(_) => Err(Refusal::NotALink),
                None => Err(Refusal::Unknown),
            }),
            Err(refusal) => then(Err(refusal)),
        });
    }

    /// Reads a part of a file.
    pub(crate) fn read(
        self: &Arc<View>,
        inode: Inode,
        offset: u64,
        size: u32,
        then: impl FnOnce(Result<Bytes, Refusal>) + Send + 'static,
    ) {
        let Some((part, number)) = inode.place() else {
            return then(Err(Refusal::IsAFolder));
        };
        let view = Arc::clone(self);
        self.with_tree(part, move |tree| {
            let tree = match tree {
                Ok(tree) => tree,
                Err(refusal) => return then(Err(refusal)),
            };
            match tree.item(number).map(|item| &item.what) {
                Some(What::File { file, length }) => {
                    let range = offset..offset.saturating_add(u64::from(size));
                    let reader = Arc::clone(&view);
                    view.files.read(*file, *length, range, move |bytes| {
                        reader.count(part, &bytes);
                        then(bytes);
                    });
                    if *length <= SMALL_BYTES && offset == 0 {
                        view.read_siblings(part, &tree, number);
                    }
                }
                Some(What::Folder { .. } | What::Tree { .. }) => then(Err(Refusal::IsAFolder)),
                Some(What::Link { .. }) | None => then(Err(Refusal::Unknown)),
            }
        });
    }

    /// A small file is read: who reads one after the other soon wants the next.
    fn read_siblings(&self, part: PartId, tree: &Tree, number: u32) {
        let Some(folder) = tree.item(number).map(|item| item.parent) else {
            return;
        };
        let Some(children) = tree.children(folder) else {
            return;
        };
        let (first, count) = (children.start, children.end - children.start);
        let at = number.saturating_sub(first);
        let ahead = lock(&self.siblings).read(&Inode::of(part, folder), at, count);
        for sibling in ahead {
            if let Some(Item { what: What::File { file, length }, .. }) = tree.item(first + sibling)
                && (1..=SMALL_BYTES).contains(length)
            {
                self.files.blocks().fetch_ahead(BlockName::content(BlockId(file.0)));
            }
        }
    }

    /// Lists a folder from `offset` on (0 for all), where the last list ended.
    pub(crate) fn list<S: Sink>(self: &Arc<View>, inode: Inode, offset: u64, sink: S) {
        let Some((part, number)) = inode.place() else {
            return self.list_own(inode, offset, sink);
        };
        let view = Arc::clone(self);
        self.with_tree(part, move |tree| match tree {
            Ok(tree) => view.list_tree(part, &tree, number, offset, sink),
            Err(refusal) => sink.end(Err(refusal)),
        });
    }

    fn list_tree<S: Sink>(&self, part: PartId, tree: &Tree, number: u32, offset: u64, mut sink: S) {
        let Some(children) = tree.children(number) else {
            return sink.end(Err(Refusal::NotAFolder));
        };
        let parent = match tree.item(number) {
            Some(item) if number > 0 => Inode::of(part, item.parent),
            _ => lock(&self.inodes).part(part).map_or(Inode::ROOT, |part| part.parent),
        };
        if !self.list_dots(Inode::of(part, number), parent, offset, &mut sink) {
            let skipped = u32::try_from(offset.saturating_sub(DOTS)).unwrap_or(u32::MAX);
            let first = children.start.saturating_add(skipped).min(children.end);
            for child in first..children.end {
                let next = u64::from(child - children.start) + DOTS + 1;
                let Some(item) = tree.item(child) else {
                    break;
                };
                let entry = if S::LOOKS_UP {
                    self.entry(part, tree, child)
                } else {
                    let attributes = self.item(Inode::of(part, child), item);
                    Some(Entry { attributes, lives: UNCHANGING })
                };
                if entry.is_none_or(|entry| self.give(&mut sink, next, &item.name, &entry)) {
                    break;
                }
            }
        }
        sink.end(Ok(()));
    }

    /// Gives an entry of a list; true where there was no room for it.
    fn give<S: Sink>(&self, sink: &mut S, next: u64, name: &[u8], entry: &Entry) -> bool {
        let is_full = sink.add(next, name, entry);
        if S::LOOKS_UP && !is_full {
            self.looked_up(entry);
        }
        is_full
    }

    /// `.` and `..`, which count as no lookups; true where there was no room for one of them.
    fn list_dots<S: Sink>(&self, own: Inode, parent: Inode, offset: u64, sink: &mut S) -> bool {
        let dots = [(1, &b"."[..], own), (DOTS, &b".."[..], parent)];
        dots.into_iter().filter(|(next, ..)| *next > offset).any(|(next, name, inode)| {
            let attributes = self.folder(inode, FOLDER_MODE, None);
            sink.add(next, name, &Entry { attributes, lives: Duration::ZERO })
        })
    }

    fn list_own<S: Sink>(self: &Arc<View>, inode: Inode, offset: u64, mut sink: S) {
        // Who begins sees what is there now; who goes on, what was there when somebody began.
        if inode == Inode::NAMES && offset == 0 {
            let view = Arc::clone(self);
            return self.files.resolve(move || match view.all_names() {
                Ok(names) => {
                    let names = names.into_iter().map(|named| (named.name.clone(), named));
                    lock(&view.names).replace(names);
                    view.list_names(offset, sink);
                }
                Err(refusal) => sink.end(Err(refusal)),
            });
        }
        match inode {
            Inode::NAMES => self.list_names(offset, sink),
            Inode::JOBS => self.list_jobs(offset, sink),
            Inode::ROOT => {
                if !self.list_dots(inode, inode, offset, &mut sink) {
                    for (next, (name, folder)) in (DOTS + 1..).zip(OWN_FOLDERS) {
                        let entry = self.own_entry(*folder);
                        if next > offset && self.give(&mut sink, next, name.as_bytes(), &entry) {
                            break;
                        }
                    }
                }
                sink.end(Ok(()));
            }
            // Whatever is stored can be looked up there; nobody can list it.
            Inode::FILES => {
                self.list_dots(inode, Inode::ROOT, offset, &mut sink);
                sink.end(Ok(()));
            }
            _ => sink.end(Err(Refusal::Unknown)),
        }
    }

    fn all_names(&self) -> Result<Vec<Named>, Refusal> {
        let mut names: Vec<Named> = Vec::new();
        loop {
            let after = names.last().map(|last| last.name.clone()).unwrap_or_default();
            let page = self.files.origin().names(&after);
            let (more, is_more) = page.map_err(|error| refused(&error, "the names", "all"))?;
            names.extend(more);
            if names.len() >= NAMES {
                tracing::warn!("there are more than {NAMES} names: the others are not listed");
                return Ok(names);
            }
            if !is_more {
                return Ok(names);
            }
        }
    }

    fn list_names<S: Sink>(&self, offset: u64, mut sink: S) {
        if !self.list_dots(Inode::NAMES, Inode::ROOT, offset, &mut sink) {
            for (number, name, named) in lock(&self.names).after(offset.saturating_sub(DOTS)) {
                let entry = if S::LOOKS_UP {
                    let origin = Origin::Name(name.to_owned(), named.version);
                    self.enter(origin, CHANGING, || named_part(named))
                } else {
                    Some(self.unentered(named))
                };
                let next = number + DOTS;
                if entry.is_none_or(|it| self.give(&mut sink, next, name.as_bytes(), &it)) {
                    break;
                }
            }
        }
        sink.end(Ok(()));
    }

    /// A name in a list that says no more than its kind: it has an inode when it is looked up.
    fn unentered(&self, named: &Named) -> Entry {
        let part = named_part(named);
        let attributes = if named.pointer.is_tree {
            self.folder(Inode::NAMES, part.mode, None)
        } else {
            let length = named.pointer.length;
            self.attributes(Inode::NAMES, FileType::RegularFile, part.mode, length, None)
        };
        Entry { attributes, lives: CHANGING }
    }

    fn list_jobs<S: Sink>(&self, offset: u64, mut sink: S) {
        let mut jobs = lock(&self.jobs);
        if offset == 0 {
            let inodes = lock(&self.inodes);
            let job = |origin: &Origin| match origin {
                Origin::Job(job) => Some((job.to_string(), *job)),
                Origin::File(_) | Origin::Name(..) | Origin::Inside(_) => None,
            };
            jobs.replace(inodes.kept().filter_map(|(origin, _)| job(origin)));
        }
        if !self.list_dots(Inode::JOBS, Inode::ROOT, offset, &mut sink) {
            for (number, name, job) in jobs.after(offset.saturating_sub(DOTS)) {
                let known = self.known_entry(&Origin::Job(*job));
                // One that was removed meanwhile is not shown.
                let Some(entry) = known else {
                    continue;
                };
                if self.give(&mut sink, number + DOTS, name.as_bytes(), &entry) {
                    break;
                }
            }
        }
        sink.end(Ok(()));
    }

    fn known_entry(&self, origin: &Origin) -> Option<Entry> {
        let inodes = lock(&self.inodes);
        let id = inodes.find(origin)?;
        let attributes = self.root_attributes(id, inodes.part(id)?);
        Some(Entry { attributes, lives: CHANGING })
    }
}

/// Entries of every folder in front of its own.
const DOTS: u64 = 2;

/// What stands in the root of the mount.
const OWN_FOLDERS: &[(&str, Inode)] =
    &[("files", Inode::FILES), ("jobs", Inode::JOBS), ("names", Inode::NAMES)];

fn job_part(source: Source) -> Part {
    Part { source, parent: Inode::JOBS, mode: FOLDER_MODE, modified: None }
}

fn named_part(named: &Named) -> Part {
    let pointer = named.pointer;
    let (source, mode) = if pointer.is_tree {
        let (tree, length) = (pointer.file, Some(pointer.length));
        (Source::Stored { tree, length }, FOLDER_MODE)
    } else {
        let tree = Tree::of_file(pointer.file, pointer.length, FILE_MODE);
        (Source::Given(Arc::new(tree)), FILE_MODE)
    };
    Part { source, parent: Inode::NAMES, mode, modified: None }
}

/// A UUID in the one form that names something here, so that nothing has two names.
fn canonical<Id: std::str::FromStr + ToString>(name: &[u8]) -> Option<Id> {
    let name = std::str::from_utf8(name).ok()?;
    let id: Id = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}

fn refused(error: &OriginError, what: &str, which: &str) -> Refusal {
    match error {
        OriginError::Absent => Refusal::NoEntry,
        OriginError::Failed(_) => {
            tracing::warn!(what, which, %error, "the masters do not tell it");
            Refusal::Unavailable
        }
    }
}

fn system_time(modified: ModificationTime) -> SystemTime {
    let seconds = Duration::from_secs(modified.seconds.unsigned_abs());
    let whole = if modified.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = Duration::from_nanos(u64::from(modified.nanoseconds));
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
