//! What a session makes of what it hears: that it is opened, answers, and calls that failed.

use node::logic::calls::{CallError, FailedCall};
use proto::ids::{LogIndex, RequestId};
use proto::limits;
use proto::record::Record;
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

use super::{CallFailure, CallId, Ended, Opened, REISSUES, Session};
use crate::logic::answers::{Answer, BadAnswer};

impl Session {
    /// A node accepted the line: a master opens the session, another tier leads to the masters.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        role: Role,
        applied_index: LogIndex,
        window: u32,
        masters: Vec<String>,
        failed: &mut Vec<FailedCall>,
    ) {
        if role != Role::Master {
            if masters.is_empty() {
                self.last_refusal = Some(format!("a {role} that does not know its masters yet"));
                return;
            }
            // On to the masters; what was sent here is asked there, under the same numbers.
            let mut removed = Vec::new();
            self.calls.remove_line(self.link, &mut self.effects, &mut removed);
            self.masters = masters;
            self.calls.set_line(self.link, self.masters.clone());
            failed.extend(removed);
            return;
        }
        self.resets_before = self.calls.counters().reset;
        if !masters.is_empty() {
            self.masters = masters;
            self.calls.set_line(self.link, self.masters.clone());
        }
        // What came before on another connection is repeated on this one.
        for pending in self.pending.values_mut() {
            pending.reader.restart();
        }
        if self.opened.is_none() {
            // This node UUID has asked for nothing before, so any index that exists will do; a
            // master that lags behind may name one from before others were forgotten.
            let index = applied_index.max(self.seen);
            let window = window.clamp(2, limits::CLIENT_WINDOW) as usize;
            self.opened = Some(Opened { index, window, at: now });
            self.send_pending(now);
        }
    }

    /// A record that answers a number came.
    pub(super) fn take_reply(&mut self, now: Instant, number: RequestId, record: &Record<'_>) {
        self.resets_before = self.calls.counters().reset;
        if self.probe == Some(number) {
            self.probe = None;
            self.last_probe = now;
            self.calls.answered(number);
            if self.opened.is_none() {
                self.pass_over();
            }
            return;
        }
        if self.scouting.probe == Some(number) {
            // It lives and knows no masters.
            self.end_scout(&mut Vec::new());
        }
        let Some(&call) = self.numbers.get(&number) else {
            self.calls.answered(number);
            return;
        };
        let Some(pending) = self.pending.get_mut(&call) else {
            return;
        };
        match pending.reader.take(record) {
            Ok(None) => {}
            Ok(Some((answer, index))) => {
                self.seen = self.seen.max(index);
                self.end(now, call, |_| Ok(answer));
            }
            Err(error) => {
                // A listing that lost records is asked for again, as another request.
                let again = error == BadAnswer::Incomplete && pending.reissues < REISSUES;
                if again {
                    pending.reissues += 1;
                    pending.number = None;
                    self.numbers.remove(&number);
                    self.calls.answered(number);
                } else {
                    self.end(now, call, |_| Err(CallFailure::BadAnswer(error)));
                }
            }
        }
    }

    pub(super) fn take_failed(&mut self, now: Instant, failed: Vec<FailedCall>) {
        for FailedCall { request: number, error } in failed {
            if self.scouting.probe == Some(number) {
                // The other line may still be of use.
                self.end_scout(&mut Vec::new());
                continue;
            }
            if self.probe == Some(number) && self.is_scouting() {
                // What the other address says counts.
                self.follow_scout(&mut Vec::new());
                continue;
            }
            if self.probe == Some(number) {
                self.probe = None;
                if let CallError::Refused(refusal) = error {
                    // The nodes there refuse this client for good.
                    self.refuse_all(now, refusal.code, &refusal.text);
                }
                continue;
            }
            let Some(call) = self.numbers.get(&number).copied() else {
                continue;
            };
            match error {
                CallError::Removed | CallError::TooMany | CallError::NoAddress => {
                    self.numbers.remove(&number);
                    self.ask_elsewhere(now, number, call);
                }
                CallError::GaveUp { last: Some(last), .. }
                    if last.code == ErrorCode::DiskFull && self.is_repeatable(call) =>
                {
                    // The masters do answer, and waiting was in vain. An earlier one may have done
                    // what cannot be repeated.
                    let (code, text) = (last.code, last.text);
                    self.end(now, call, |_| Err(CallFailure::Refused { code, text }));
                }
                CallError::GaveUp { last, .. } => {
                    let last = last.map(|it| it.text).or_else(|| self.last_refusal.clone());
                    self.end(now, call, |waited| Err(CallFailure::Unreachable { waited, last }));
                }
                CallError::Refused(refusal) if refusal.code == ErrorCode::TooOld => {
                    self.forgotten(now, number, call);
                }
                CallError::Refused(refusal) => {
                    let (code, text) = (refusal.code, refusal.text);
                    self.end(now, call, |_| Err(CallFailure::Refused { code, text }));
                }
            }
        }
    }

    /// The same request, under the same number, on the line that leads to the masters now.
    fn ask_elsewhere(&mut self, now: Instant, number: RequestId, call: CallId) {
        let (Some(pending), Some(opened)) = (self.pending.get_mut(&call), self.opened) else {
            return;
        };
        let policy = pending.policy(now);
        pending.number = None;
        pending.reader.restart();
        let Ok(record) = pending.request.encode(opened.index, self.seen) else {
            return;
        };
        let called = self.calls.call(now, number, self.link, record, policy, &mut self.effects);
        if called.is_ok() {
            pending.number = Some(number);
            self.numbers.insert(number, call);
        }
    }

    fn is_repeatable(&self, call: CallId) -> bool {
        self.pending.get(&call).is_some_and(|pending| pending.request.is_repeatable())
    }

    /// The masters no longer remember this client. What may be asked twice is asked as a new one.
    fn forgotten(&mut self, now: Instant, number: RequestId, call: CallId) {
        let Some(pending) = self.pending.get_mut(&call) else {
            return;
        };
        // What was sent once and refused had no effect; of several copies another one may have had.
        let was_sent_once = self.calls.counters().repeated == pending.repeats_before;
        let is_repeatable = pending.request.is_repeatable() || was_sent_once;
        if !is_repeatable || pending.reissues >= REISSUES {
            self.end(now, call, |_| Err(CallFailure::OutcomeUnknown));
            return;
        }
        pending.reissues += 1;
        pending.number = None;
        pending.was_sent = false;
        self.numbers.remove(&number);
        self.wants_new_node = true;
    }

    fn refuse_all(&mut self, now: Instant, code: ErrorCode, text: &str) {
        let calls: Vec<CallId> = self.pending.keys().copied().collect();
        for call in calls {
            let text = text.to_owned();
            self.end(now, call, |_| Err(CallFailure::Refused { code, text }));
        }
    }

    pub(super) fn end(
        &mut self,
        now: Instant,
        call: CallId,
        result: impl FnOnce(Duration) -> Result<Answer, CallFailure>,
    ) {
        let Some(pending) = self.pending.remove(&call) else {
            return;
        };
        if let Some(number) = pending.number {
            self.numbers.remove(&number);
            self.calls.answered(number);
        }
        if pending.ordinal.is_some() {
            self.last_change = Some(now);
        }
        let result = result(now.since(pending.began));
        self.ended.push_back(Ended { call, result });
    }
}
