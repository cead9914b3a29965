//! How much each peer has asked for and not been answered, so that one client cannot take what
//! belongs to all.
//!
//! Responsible for counting, for refusing a client's request beyond its window, and for the oldest
//! of too many questions that wait for jobs' ends. Deliberately not for what all clients together
//! may have open: that is the log's bound (`consensus`) and `WAITING_QUERIES`.

use std::collections::{BTreeMap, VecDeque};

use node::logic::network::{Peer, Sender};
use proto::ids::{JobId, RequestId};
use proto::limits::CLIENT_WINDOW;
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record};
use proto::status::{ErrorCode, Role};

use super::commands::Output;
use super::queries::Asked;
use super::replies::Waiting;
use super::{Effect, Master, Ticket};

/// Requests of one client that may be open: twice the window that it is told, because one that was
/// repeated over a new connection counts twice.
const OPEN_REQUESTS: usize = 2 * CLIENT_WINDOW as usize;

/// What is open, by peer.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Requests that wait for the log or for a newer state.
    open: BTreeMap<Peer, usize>,
    /// Questions that wait for a job's end, the oldest first.
    parked: BTreeMap<Peer, VecDeque<(JobId, RequestId)>>,
}

impl Windows {
    pub(super) fn opened(&mut self, peer: Peer) {
        *self.open.entry(peer).or_default() += 1;
    }

    pub(super) fn closed(&mut self, peer: Peer) {
        let Some(count) = self.open.get_mut(&peer) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&peer);
        }
    }

    fn is_full(&self, peer: Peer) -> bool {
        self.open.get(&peer).is_some_and(|&count| count >= OPEN_REQUESTS)
    }

    /// A question begins to wait for a job's end. Returns the one that has to go for it: whoever
    /// gave up waiting for an answer does not say so.
    fn park(&mut self, peer: Peer, job: JobId, request: RequestId) -> Option<(JobId, RequestId)> {
        let parked = self.parked.entry(peer).or_default();
        parked.push_back((job, request));
        if parked.len() > OPEN_REQUESTS { parked.pop_front() } else { None }
    }

    fn unpark(&mut self, peer: Peer, job: JobId, request: RequestId) {
        let Some(parked) = self.parked.get_mut(&peer) else { return };
        if let Some(at) = parked.iter().position(|it| *it == (job, request)) {
            parked.remove(at);
        }
        if parked.is_empty() {
            self.parked.remove(&peer);
        }
    }

    /// A connection ended.
    pub(super) fn forget(&mut self, peer: Peer) {
        self.open.remove(&peer);
        self.parked.remove(&peer);
    }
}

impl Master {
    /// Whether a record may be taken; one beyond its client's window is answered busy, and nothing
    /// is kept of it.
    pub(super) fn has_window(
        &self,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let is_client = matches!(sender.role, Role::Client | Role::Gateway);
        if !is_client
            || !self.windows.is_full(sender.peer)
            || record.message_type() == ErrorReply::TYPE
        {
            return true;
        }
        let text = format!(
            "{OPEN_REQUESTS} requests of this client are not answered yet, {CLIENT_WINDOW} are \
             its window: wait for answers"
        );
        self.refuse(sender, record, &Output::refused(ErrorCode::Busy, text), effects);
        false
    }

    /// Keeps who waits for a command or a read.
    pub(super) fn wait(&mut self, ticket: Ticket, who: Waiting) {
        if let Waiting::Peer(waiter) = &who {
            self.windows.opened(waiter.peer);
        }
        self.waiting.insert(ticket, who);
    }

    /// Whoever waited for a command or a read waits no longer.
    pub(super) fn waited(&mut self, ticket: Ticket) -> Option<Waiting> {
        let who = self.waiting.remove(&ticket)?;
        if let Waiting::Peer(waiter) = &who {
            self.windows.closed(waiter.peer);
        }
        Some(who)
    }

    /// Keeps a question until a job's end.
    pub(super) fn watch(&mut self, job: JobId, asked: Asked, effects: &mut Vec<Effect>) {
        let (peer, request) = (asked.peer, asked.request);
        self.watchers.entry(job).or_default().push(asked);
        self.watcher_count += 1;
        let Some((job, oldest)) = self.windows.park(peer, job, request) else { return };
        if let Some(watchers) = self.watchers.get_mut(&job) {
            let before = watchers.len();
            watchers.retain(|asked| asked.peer != peer || asked.request != oldest);
            self.watcher_count -= before - watchers.len();
            if watchers.is_empty() {
                self.watchers.remove(&job);
            }
        }
        let text = "this client waits for too many jobs at a time: wait for some of them";
        let refusal = Output::refused(ErrorCode::Busy, text);
        self.send_refusal(peer, oldest, 0, &refusal, effects);
    }

    /// The questions that waited for a job's end.
    pub(super) fn take_watchers(&mut self, job: JobId) -> Vec<Asked> {
        let watchers = self.watchers.remove(&job).unwrap_or_default();
        self.watcher_count -= watchers.len();
        for asked in &watchers {
            self.windows.unpark(asked.peer, job, asked.request);
        }
        watchers
    }
}
