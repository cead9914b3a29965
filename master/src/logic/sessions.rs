//! Which requests of which client had their effect, so that a retried request has the effect of
//! one (invariant 11).

use imbl::OrdMap;
use proto::ids::{LogIndex, NodeId, RequestId};
use proto::limits::CLIENT_WINDOW;
use proto::status::ErrorCode;
use serde::{Deserialize, Serialize};

use super::commands::{Asker, Output};

/// A client that was silent this long, in microseconds of log time, is dropped.
const IDLE_US: u64 = 3_600_000_000;

/// The last window of one client's changing requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Session {
    /// Log time of its last request.
    last_us: u64,
    /// Replies by request number, at most a window of them.
    replies: Vec<(RequestId, Output)>,
    /// The highest number whose reply is no longer kept.
    dropped: RequestId,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is new.
    New,
    /// It had its effect; this was the reply.
    Known(Output),
    /// It is too old to tell.
    TooOld(Output),
}

/// The request windows of all clients. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    clients: OrdMap<NodeId, Session>,
    /// Clients by the time of their last request, for dropping the idle ones.
    by_age: OrdMap<(u64, NodeId), ()>,
    /// Log index at which a session was last dropped: who was greeted before it may have had one.
    horizon: LogIndex,
}

impl Sessions {
    /// Looks whether a request had its effect before.
    #[must_use]
    pub fn admit(&self, asker: &Asker) -> Admission {
        let too_old = || {
            Admission::TooOld(Output::refused(
                ErrorCode::TooOld,
                "the outcome of this request is unknown and no longer remembered: \
                 look before repeating it",
            ))
        };
        match self.clients.get(&asker.client) {
            Some(session) => {
                let known = session.replies.iter().find(|(number, _)| *number == asker.request);
                match known {
                    Some((_, reply)) => Admission::Known(reply.clone()),
                    None if asker.request <= session.dropped => too_old(),
                    None => Admission::New,
                }
            }
            None if asker.session_index < self.horizon => too_old(),
            None => Admission::New,
        }
    }

    /// Remembers a reply, and drops clients that were silent for an hour.
    pub fn remember(&mut self, asker: &Asker, reply: Output, index: LogIndex, log_time_us: u64) {
        let mut session = self.clients.get(&asker.client).cloned().unwrap_or_default();
        self.by_age.remove(&(session.last_us, asker.client));
        session.last_us = log_time_us;
        session.replies.push((asker.request, reply));
        if session.replies.len() > CLIENT_WINDOW as usize {
            let oldest = session.replies.iter().enumerate().min_by_key(|(_, (number, _))| *number);
            if let Some((at, &(number, _))) = oldest {
                session.replies.remove(at);
                session.dropped = session.dropped.max(number);
            }
        }
        self.clients.insert(asker.client, session);
        self.by_age.insert((log_time_us, asker.client), ());
        while let Some(&((last_us, client), ())) = self.by_age.get_min() {
            if last_us.saturating_add(IDLE_US) > log_time_us {
                break;
            }
            self.by_age.remove(&(last_us, client));
            self.clients.remove(&client);
            self.horizon = index;
        }
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        assert_eq!(self.clients.len(), self.by_age.len(), "every client has one age");
        for session in self.clients.values() {
            assert!(session.replies.len() <= CLIENT_WINDOW as usize, "a window is bounded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(request: u64, session_index: u64) -> Asker {
        Asker {
            client: NodeId(7),
            request: RequestId(request),
            session_index: LogIndex(session_index),
        }
    }

    fn reply(index: u64) -> Output {
        Output::Registered { index: LogIndex(index) }
    }

    #[test]
    fn a_repeated_request_gets_the_first_reply() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(&asker(1, 0)), Admission::New);
        sessions.remember(&asker(1, 0), reply(10), LogIndex(10), 5);
        assert_eq!(sessions.admit(&asker(1, 0)), Admission::Known(reply(10)));
        sessions.check_invariants();
    }

    #[test]
    fn a_request_behind_the_window_is_refused_not_repeated() {
        let mut sessions = Sessions::default();
        for number in 1..=u64::from(CLIENT_WINDOW) + 1 {
            sessions.remember(&asker(number, 0), reply(number), LogIndex(number), number);
        }
        assert!(matches!(sessions.admit(&asker(1, 0)), Admission::TooOld(_)));
        assert_eq!(sessions.admit(&asker(2, 0)), Admission::Known(reply(2)));
        sessions.check_invariants();
    }

    #[test]
    fn a_client_from_before_the_horizon_is_refused() {
        let mut sessions = Sessions::default();
        sessions.remember(&asker(1, 3), reply(10), LogIndex(10), 0);
        let other = Asker { client: NodeId(8), ..asker(1, 11) };
        sessions.remember(&other, reply(20), LogIndex(20), IDLE_US);
        assert!(matches!(sessions.admit(&asker(1, 3)), Admission::TooOld(_)));
        assert_eq!(sessions.admit(&asker(2, 21)), Admission::New);
        sessions.check_invariants();
    }
}
