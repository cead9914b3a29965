//! A blocking client for tools and tests: one request after the other, asked until answered.
//!
//! The retries are [`Calls`]', the connection is [`Network`]'s; this only waits. Whoever has an
//! event loop of its own uses those two directly.

use std::io;

use proto::ids::RequestId;
use proto::record::{Record, RecordError};

use crate::clock::Clock;
use crate::logic::backoff::Backoff;
use crate::logic::calls::{
    CallCounters, CallError, CallLimits, CallPolicy, Calls, FailedCall, Handled,
};
use crate::logic::network::{Identity, Link, NetworkEvent};
use crate::network::{Network, NetworkError};
use crate::random;

const LINK: Link = Link(0);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nobody answered, or the request was refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer cannot be read, or is of another type than expected.
    #[error("read the answer")]
    Answer(#[from] RecordError),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum RpcClientError {
    /// No socket.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No randomness.
    #[error("seed the waits between attempts")]
    Random(#[source] io::Error),
}

/// Asks nodes of one tier, at any of several addresses.
#[derive(Debug)]
pub struct RpcClient {
    network: Network,
    clock: Clock,
    calls: Calls,
    policy: CallPolicy,
    last_request: RequestId,
}

impl RpcClient {
    /// A client of the nodes at these addresses; it connects at the first request.
    ///
    /// # Errors
    /// [`RpcClientError`] where the process gets no socket or no randomness.
    pub fn new(
        identity: Identity,
        clock: Clock,
        addresses: Vec<String>,
        policy: CallPolicy,
        backoff: Backoff,
    ) -> Result<RpcClient, RpcClientError> {
        let network = Network::client(identity, clock)?;
        let random = random::generator().map_err(RpcClientError::Random)?;
        let limits = CallLimits { calls: 1, bytes: usize::MAX };
        let mut calls = Calls::new(backoff, limits, random);
        calls.set_line(LINK, addresses);
        Ok(RpcClient { network, clock, calls, policy, last_request: RequestId(0) })
    }

    /// What came of the requests so far.
    #[must_use]
    pub fn counters(&self) -> &CallCounters {
        self.calls.counters()
    }

    /// The connections, for their counters.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Asks and waits. `read` gets each reply in turn and returns `None` while more are to come.
    ///
    /// # Errors
    /// [`RpcError`] where the policy's patience ends, the request is refused, or `read` fails.
    pub fn call<T>(
        &mut self,
        record: Vec<u8>,
        mut read: impl FnMut(&Record<'_>) -> Result<Option<T>, RecordError>,
    ) -> Result<T, RpcError> {
        let mut effects = Vec::new();
        let mut failed: Vec<FailedCall> = Vec::new();
        let now = self.clock.now();
        self.last_request = self.last_request.next();
        let request = self.last_request;
        self.calls.call(now, request, LINK, record, self.policy, &mut effects)?;
        let mut answer = None;
        loop {
            effects.drain(..).for_each(|effect| self.network.perform(effect));
            if let Some(answer) = answer {
                self.calls.answered(request);
                return answer;
            }
            if let Some(failed) = failed.pop() {
                return Err(failed.error.into());
            }
            let (calls, clock) = (&mut self.calls, self.clock);
            self.network.poll(calls.next_deadline(), &mut |event| {
                let handled = calls.handle(clock.now(), &event, &mut effects, &mut failed);
                if let (Handled::Reply(_), NetworkEvent::Record { record, .. }) = (handled, &event)
                    && answer.is_none()
                {
                    answer = read(record).map_err(RpcError::from).transpose();
                }
            });
            self.calls.tick(self.clock.now(), &mut effects, &mut failed);
        }
    }
}
