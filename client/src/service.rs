//! The one thread of a client: it owns the network and drives [`Client`].
//!
//! Commands come in through a bounded queue, completions go out one by one. It reads the source of
//! what is stored (a block at a time, into one buffer) and hands fetched bytes on; what requests
//! mean and when they are repeated is the logic's matter.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use node::clock::Clock;
use node::logic::network::{Identity, NetworkEffect};
use node::network::Network;
use node::random;
use node::waker::Waker;
use proto::ids::{BlockId, ClusterId, FileId, Incarnation, NodeId};
use proto::status::{BlockKind, Role};
use proto::time::{Duration, Instant};

use crate::completion::{Closed, Completer};
use crate::error::ClientError;
use crate::logic::answers::Answer;
use crate::logic::client::{Client, Done};
use crate::logic::files::{BlockSource, FilePlan};
use crate::logic::jobs::Request;
use crate::logic::registers::{Found, OperationId, RegisterRequest};
use crate::logic::session::{CallId, NotCalled};
use crate::logic::transfer::{GetId, Output, PutId, PutReport, PutTerms, TransferError};
use crate::source::Source;

/// Commands that wait for the thread; who sends more waits.
const COMMANDS: usize = 1024;

/// Commands that are taken before the network gets its turn.
const COMMANDS_PER_TURN: usize = 256;

/// Requests that wait for room in the window before no more commands are taken.
const WAITING_CALLS: usize = 1024;

/// Links of a client: two to the masters, the others for as many storage nodes as a ring has.
const LINKS: Range<u32> = 0..8192;

/// Bytes of a fetched file, in the order in which they arrive.
#[derive(Debug)]
pub(crate) enum StreamItem {
    /// The file was found and has so many bytes.
    Opened(u64),
    /// Bytes that belong at an offset.
    Piece(GetId, u64, Vec<u8>),
    /// All pieces came, or none will any more.
    End(Result<u64, TransferError>),
}

/// Where fetched bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Into memory.
    Memory {
        /// What part of the file is wanted.
        range: Range<u64>,
        /// At most this many bytes.
        limit: u64,
        content: Vec<u8>,
        reply: Completer<Result<Vec<u8>, ClientError>>,
    },
    /// To whoever reads them one after the other, and says when they are used up.
    Stream(Sender<StreamItem>),
}

/// What the thread is told.
pub(crate) enum Command {
    Call {
        request: Request,
        patience: Duration,
        reply: Completer<Result<Answer, ClientError>>,
    },
    Put {
        plan: FilePlan,
        source: Box<dyn Source>,
        terms: PutTerms,
        reply: Completer<Result<PutReport, ClientError>>,
    },
    GetBlock {
        block: BlockId,
        kind: BlockKind,
        length: Option<u64>,
        sink: Sink,
    },
    GetFile {
        file: FileId,
        range: Range<u64>,
        length: Option<u64>,
        sink: Sink,
    },
    Register {
        address: u64,
        request: RegisterRequest,
        patience: Duration,
        reply: Completer<Result<Found, ClientError>>,
    },
    /// Bytes of a stream were used up.
    Consumed(GetId, u64),
    /// Nobody reads a stream any more.
    Abandon(GetId),
    Stop,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Call { .. } => "Call",
            Command::Put { .. } => "Put",
            Command::GetBlock { .. } => "GetBlock",
            Command::GetFile { .. } => "GetFile",
            Command::Register { .. } => "Register",
            Command::Consumed(..) => "Consumed",
            Command::Abandon(_) => "Abandon",
            Command::Stop => "Stop",
        })
    }
}

/// The other threads' end of the service.
#[derive(Debug)]
pub(crate) struct ServiceHandle {
    commands: SyncSender<Command>,
    /// A client that begins as a new node has another network and so another waker.
    waker: Arc<Mutex<Waker>>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceHandle {
    /// Starts the thread.
    pub(crate) fn start(addresses: Vec<String>) -> Result<ServiceHandle, ClientError> {
        let clock = Clock::start();
        let network = new_network(clock)?;
        let random = random::generator().map_err(ClientError::Start)?;
        let waker = Arc::new(Mutex::new(network.waker()));
        let (commands, receiver) = sync_channel(COMMANDS);
        let service = Service {
            clock,
            network,
            client: Client::new(LINKS, addresses, random),
            commands: receiver,
            waker: Arc::clone(&waker),
            calls: BTreeMap::new(),
            waiting: VecDeque::new(),
            puts: BTreeMap::new(),
            gets: BTreeMap::new(),
            registers: BTreeMap::new(),
            effects: Vec::new(),
            buffer: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("remuda-client".to_owned());
        let thread = thread.spawn(move || service.run()).map_err(ClientError::Start)?;
        Ok(ServiceHandle { commands, waker, thread: Some(thread) })
    }

    /// Tells the thread something; waits where its queue is full.
    pub(crate) fn tell(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).map_err(|_| Closed)?;
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).wake();
        Ok(())
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        let told = self.tell(Command::Stop);
        if let Some(thread) = self.thread.take()
            && (thread.join().is_err() || told.is_err())
        {
            tracing::error!("the client's thread ended by a panic");
        }
    }
}

/// A put whose source may still be asked for.
struct Storing {
    plan: FilePlan,
    source: Box<dyn Source>,
    reply: Completer<Result<PutReport, ClientError>>,
}

struct WaitingCall {
    request: Request,
    patience: Duration,
    since: Instant,
    reply: Completer<Result<Answer, ClientError>>,
}

struct Service {
    clock: Clock,
    network: Network,
    client: Client,
    commands: Receiver<Command>,
    waker: Arc<Mutex<Waker>>,
    calls: BTreeMap<CallId, Completer<Result<Answer, ClientError>>>,
    /// Calls for which the window has no room.
    waiting: VecDeque<WaitingCall>,
    puts: BTreeMap<PutId, Storing>,
    gets: BTreeMap<GetId, Sink>,
    registers: BTreeMap<OperationId, Completer<Result<Found, ClientError>>>,
    effects: Vec<NetworkEffect>,
    /// The block that is being read from a source.
    buffer: Vec<u8>,
}

/// What became of taking commands.
enum Taken {
    /// There are no more for now.
    All,
    /// There may be more.
    Some,
    Stop,
}

impl Service {
    fn run(mut self) {
        loop {
            let taken = self.take_commands();
            if let Taken::Stop = taken {
                return;
            }
            self.settle();
            let now = self.clock.now();
            let deadline = match taken {
                Taken::Some => Some(now),
                Taken::All | Taken::Stop => self.client.next_deadline(now),
            };
            let (client, effects, clock) = (&mut self.client, &mut self.effects, self.clock);
            self.network.poll(deadline, &mut |event| {
                client.handle(clock.now(), &event, effects);
            });
            let now = self.clock.now();
            // Only after what came in was heard: a thread that was busy is not a silent node.
            if self.client.next_deadline(now).is_some_and(|deadline| deadline <= now) {
                self.client.tick(now, &mut self.effects);
            }
            self.settle();
        }
    }

    fn take_commands(&mut self) -> Taken {
        for _ in 0..COMMANDS_PER_TURN {
            if self.waiting.len() >= WAITING_CALLS {
                return Taken::All;
            }
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Taken::Stop,
                Ok(command) => self.take_command(command),
                Err(TryRecvError::Empty) => return Taken::All,
            }
        }
        Taken::Some
    }

    fn take_command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Call { request, patience, reply } => {
                self.waiting.push_back(WaitingCall { request, patience, since: now, reply });
                self.send_waiting(now);
            }
            Command::Put { plan, source, terms, reply } => {
                let blocks = plan.blocks.clone();
                match self.client.transfer_mut().put(now, blocks, terms, &mut self.effects) {
                    Ok(put) => {
                        self.puts.insert(put, Storing { plan, source, reply });
                    }
                    Err(error) => reply.complete(Err(error.into())),
                }
            }
            Command::GetBlock { block, kind, length, sink } => {
                let transfer = self.client.transfer_mut();
                let get = transfer.get_block(now, block, kind, length, &mut self.effects);
                self.begin_get(get, sink);
            }
            Command::GetFile { file, range, length, sink } => {
                let transfer = self.client.transfer_mut();
                let get = transfer.get_file(now, file, range, length, &mut self.effects);
                self.begin_get(get, sink);
            }
            Command::Register { address, request, patience, reply } => {
                let (transfer, effects) = (self.client.transfer_mut(), &mut self.effects);
                match transfer.register(now, address, request, patience, effects) {
                    Ok(operation) => {
                        self.registers.insert(operation, reply);
                    }
                    Err(error) => reply.complete(Err(error.into())),
                }
            }
            Command::Consumed(get, bytes) => {
                self.client.transfer_mut().consumed(now, get, bytes, &mut self.effects);
            }
            Command::Abandon(get) => {
                self.client.transfer_mut().cancel_get(get);
                self.gets.remove(&get);
            }
            // Taken where commands are taken.
            Command::Stop => {}
        }
    }

    fn begin_get(&mut self, get: Result<GetId, TransferError>, sink: Sink) {
        match get {
            Ok(get) => {
                self.gets.insert(get, sink);
            }
            Err(error) => end_sink(sink, Err(error)),
        }
    }

    /// Sends calls that wait, as far as the window has room for their kind.
    fn send_waiting(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.waiting) {
            let WaitingCall { request, patience, since, reply } = call;
            let left = (since + patience).since(now);
            match self.client.call(now, request, left, &mut self.effects) {
                Ok(call) => {
                    self.calls.insert(call, reply);
                }
                Err(NotCalled::NotSendable(error)) => reply.complete(Err(error.into())),
                Err(NotCalled::Full(request)) => {
                    let request = *request;
                    self.waiting.push_back(WaitingCall { request, patience, since, reply });
                }
            }
        }
    }

    /// Carries out effects and takes what was done, until there is nothing left of either.
    fn settle(&mut self) {
        loop {
            if self.client.wants_new_node() {
                self.begin_as_new_node();
            }
            for effect in self.effects.drain(..) {
                self.network.perform(effect);
            }
            let now = self.clock.now();
            let Some(done) = self.client.next_done(now, &mut self.effects) else {
                if self.effects.is_empty() {
                    break;
                }
                continue;
            };
            match done {
                Done::Call(ended) => {
                    if let Some(reply) = self.calls.remove(&ended.call) {
                        reply.complete(ended.result.map_err(ClientError::from));
                    }
                    self.send_waiting(now);
                }
                Done::Transfer(output) => self.take_output(now, output),
                Done::Register(ended) => {
                    if let Some(reply) = self.registers.remove(&ended.operation) {
                        reply.complete(ended.result.map_err(ClientError::from));
                    }
                }
            }
        }
        self.network.flush();
    }

    fn take_output(&mut self, now: Instant, output: Output) {
        match output {
            Output::FetchRing => {}
            Output::ReadSource { put, index } => self.read_source(now, put, index),
            Output::Stored { put, result } => {
                if let Some(storing) = self.puts.remove(&put) {
                    storing.reply.complete(result.map_err(ClientError::from));
                }
            }
            Output::Opened { get, length } => self.opened(get, length),
            Output::Piece { get, offset, content } => self.piece(now, get, offset, content),
            Output::Fetched { get, result } => {
                if let Some(sink) = self.gets.remove(&get) {
                    end_sink(sink, result);
                }
            }
        }
    }

    fn read_source(&mut self, now: Instant, put: PutId, index: usize) {
        let Some(storing) = self.puts.get_mut(&put) else {
            return;
        };
        let content = match storing.plan.source(index) {
            Some(BlockSource::Manifest(manifest)) => Ok(manifest),
            Some(BlockSource::File { offset, length }) => {
                storing.source.read(offset, length, &mut self.buffer)
            }
            None => Err("the file has no such block".to_owned()),
        };
        let transfer = self.client.transfer_mut();
        transfer.source_read(now, put, index, content, &mut self.effects);
    }

    fn opened(&mut self, get: GetId, length: u64) {
        match self.gets.get_mut(&get) {
            Some(Sink::Memory { range, limit, content, .. }) => {
                let wanted = length.min(range.end).saturating_sub(range.start);
                if wanted <= *limit {
                    content.reserve_exact(usize::try_from(wanted).unwrap_or(0));
                } else if let Some(Sink::Memory { limit, reply, .. }) = self.gets.remove(&get) {
                    self.client.transfer_mut().cancel_get(get);
                    reply.complete(Err(ClientError::TooLarge { length: wanted, limit }));
                }
            }
            Some(Sink::Stream(stream)) => {
                // Whoever does not listen any more has said so, or will.
                let _ = stream.send(StreamItem::Opened(length));
            }
            None => {}
        }
    }

    fn piece(&mut self, now: Instant, get: GetId, offset: u64, piece: Vec<u8>) {
        match self.gets.get_mut(&get) {
            Some(Sink::Memory { range, content, .. }) => {
                let bytes = piece.len();
                let begin = usize::try_from(offset.saturating_sub(range.start)).unwrap_or(0);
                if content.is_empty() && begin == 0 && content.capacity() <= bytes {
                    *content = piece;
                } else {
                    if content.len() < begin + bytes {
                        content.resize(begin + bytes, 0);
                    }
                    if let Some(place) = content.get_mut(begin..begin + bytes) {
                        place.copy_from_slice(&piece);
                    }
                }
                let transfer = self.client.transfer_mut();
                transfer.consumed(now, get, bytes as u64, &mut self.effects);
            }
            Some(Sink::Stream(stream)) => {
                let is_heard = stream.send(StreamItem::Piece(get, offset, piece)).is_ok();
                if !is_heard {
                    self.client.transfer_mut().cancel_get(get);
                    self.gets.remove(&get);
                }
            }
            None => {}
        }
    }

    /// The masters may have forgotten this client: it goes on under another UUID. Where it cannot,
    /// for want of sockets, its calls stay where they are until it can.
    fn begin_as_new_node(&mut self) {
        let fresh = new_network(self.clock);
        let random = random::generator().map_err(ClientError::Start);
        let (Ok(network), Ok(random)) = (fresh, random) else {
            tracing::warn!("cannot begin as a new client: no socket or no randomness");
            return;
        };
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = network.waker();
        self.network = network;
        self.effects.clear();
        let now = self.clock.now();
        self.client.begin_as_new_node(now, random, &mut self.effects);
        // Who woke the old network in between did so in vain.
        self.network.waker().wake();
    }
}

fn end_sink(sink: Sink, result: Result<u64, TransferError>) {
    match sink {
        Sink::Memory { content, reply, .. } => {
            reply.complete(result.map(|_| content).map_err(ClientError::from));
        }
        Sink::Stream(stream) => {
            // Nobody listens: nobody misses it.
            let _ = stream.send(StreamItem::End(result));
        }
    }
}

pub(crate) fn new_network(clock: Clock) -> Result<Network, ClientError> {
    let node = NodeId::from_random(random::bits().map_err(ClientError::Start)?);
    let identity = Identity {
        node,
        role: Role::Client,
        cluster: ClusterId::default(),
        incarnation: Incarnation(0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: String::new(),
    };
    Ok(Network::client(identity, clock)?)
}
