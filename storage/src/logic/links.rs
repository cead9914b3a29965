//! One connection to each of the other storage nodes, however many parts of this one talk to it.
//!
//! A second link from the same node would take the first one's place at the other end. So the
//! parts of the logic that ask other nodes number their links as if they were alone, and here each
//! address gets one link that carries all of them: what goes out is renumbered, what comes in is
//! given to the part that asks such questions. Whoever closes its link closes the connection, as
//! it has seen that it is of no use; for the others it is opened again when they send the next
//! time, and what they had asked is lost as on any broken connection.

use std::collections::BTreeMap;

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::messages::file::{
    BlockContent, BlockGet, BlockOffer, BlockOffered, BlockPut, BlockStored,
};
use proto::messages::register::{RegisterCopied, RegisterCopy, RegisterSeal, RegisterSealed};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record};

use super::Effect;

/// Links below belong to the masters and stay as they are.
const FIRST_LINK: u32 = 1 << 16;

/// Each part of the logic has as many numbers.
const LINK_NUMBERS: u32 = 1 << 16;

/// Links to storage nodes as the network knows them are numbered from here on.
const FIRST_SHARED: u32 = 4 << 16;

/// A part of the logic that asks other storage nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// Fetches blocks.
    Fetches,
    /// Hands blocks over.
    Reconcile,
    /// Moves registers.
    Registers,
}

impl User {
    /// The number of its link that it opens as the nth.
    pub(super) fn link(self, nth: u32) -> Link {
        let first = match self {
            User::Fetches => FIRST_LINK,
            User::Reconcile => FIRST_LINK + LINK_NUMBERS,
            User::Registers => FIRST_LINK + 2 * LINK_NUMBERS,
        };
        Link(first + nth % LINK_NUMBERS)
    }

    fn of(link: Link) -> Option<User> {
        match link.0.checked_sub(FIRST_LINK)? / LINK_NUMBERS {
            0 => Some(User::Fetches),
            1 => Some(User::Reconcile),
            2 => Some(User::Registers),
            _ => None,
        }
    }

    /// Who asks the questions that such a record answers.
    fn of_answer(record: &Record<'_>) -> Option<User> {
        let of_question = |question| match question {
            BlockGet::TYPE => Some(User::Fetches),
            BlockOffer::TYPE | BlockPut::TYPE => Some(User::Reconcile),
            RegisterSeal::TYPE | RegisterCopy::TYPE => Some(User::Registers),
            _ => None,
        };
        match record.message_type() {
            BlockContent::TYPE => Some(User::Fetches),
            BlockOffered::TYPE | BlockStored::TYPE => Some(User::Reconcile),
            RegisterSealed::TYPE | RegisterCopied::TYPE => Some(User::Registers),
            ErrorReply::TYPE => of_question(record.open::<ErrorReply, 2>().ok()?.0.refused_type),
            _ => None,
        }
    }
}

/// A connection.
#[derive(Debug)]
struct Shared {
    link: Link,
    /// The links that it carries.
    users: BTreeMap<User, Link>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Where the parts' links lead.
    addresses: BTreeMap<Link, String>,
    by_address: BTreeMap<String, Shared>,
    next: u32,
}

impl Links {
    /// Renumbers the effects from `begin` on, which the parts of the logic wanted.
    pub(super) fn share(&mut self, begin: usize, effects: &mut Vec<Effect>) {
        let wanted = effects.split_off(begin.min(effects.len()));
        for effect in wanted {
            match effect {
                Effect::Network(NetworkEffect::Open { link, address })
                    if User::of(link).is_some() =>
                {
                    self.close(link, effects);
                    self.addresses.insert(link, address);
                    self.shared(link, effects);
                }
                Effect::Network(NetworkEffect::Close { link }) if User::of(link).is_some() => {
                    self.close(link, effects);
                }
                Effect::Network(NetworkEffect::Send { to: Peer::Link(link), record })
                    if User::of(link).is_some() =>
                {
                    if let Some(link) = self.shared(link, effects) {
                        let to = Peer::Link(link);
                        effects.push(Effect::Network(NetworkEffect::Send { to, record }));
                    }
                }
                Effect::Answer { to: Peer::Link(link), request_id, ticket }
                    if User::of(link).is_some() =>
                {
                    let shared = self.shared(link, effects).map(Peer::Link);
                    effects.push(match shared {
                        Some(to) => Effect::Answer { to, request_id, ticket },
                        None => Effect::Discard { ticket },
                    });
                }
                other => effects.push(other),
            }
        }
    }

    /// The connection that carries a link, opened where it is not.
    fn shared(&mut self, link: Link, effects: &mut Vec<Effect>) -> Option<Link> {
        let user = User::of(link)?;
        let address = self.addresses.get(&link)?;
        let next = &mut self.next;
        let shared = self.by_address.entry(address.clone()).or_insert_with(|| {
            let link = Link(FIRST_SHARED + *next % FIRST_SHARED);
            *next = next.wrapping_add(1);
            let address = address.clone();
            effects.push(Effect::Network(NetworkEffect::Open { link, address }));
            Shared { link, users: BTreeMap::new() }
        });
        shared.users.insert(user, link);
        Some(shared.link)
    }

    fn close(&mut self, link: Link, effects: &mut Vec<Effect>) {
        let Some(address) = self.addresses.remove(&link) else { return };
        let carries = |shared: &Shared| shared.users.values().any(|&it| it == link);
        if self.by_address.get(&address).is_some_and(carries)
            && let Some(Shared { link, .. }) = self.by_address.remove(&address)
        {
            effects.push(Effect::Network(NetworkEffect::Close { link }));
        }
    }

    /// The link of the part that a record on a connection is for. Links to masters are themselves;
    /// `None` where nobody waits for such a record.
    pub(super) fn receiver(&self, link: Link, record: &Record<'_>) -> Option<Link> {
        if link.0 < FIRST_SHARED {
            return Some(link);
        }
        let shared = self.by_address.values().find(|shared| shared.link == link)?;
        shared.users.get(&User::of_answer(record)?).copied()
    }

    /// The links that a connection carries; a link to a master is itself.
    pub(super) fn carried(&self, link: Link) -> Vec<Link> {
        if link.0 < FIRST_SHARED {
            return vec![link];
        }
        let shared = self.by_address.values().find(|shared| shared.link == link);
        shared.map(|shared| shared.users.values().copied().collect()).unwrap_or_default()
    }

    pub(super) fn check_invariants(&self) {
        for (address, shared) in &self.by_address {
            for (&user, link) in &shared.users {
                assert_eq!(User::of(*link), Some(user), "a link of another part");
                assert!(
                    self.addresses.get(link).is_none_or(|it| it == address),
                    "a link that leads elsewhere"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use node::logic::refusal::Refusal;
    use proto::ids::RequestId;
    use proto::record::{self, Records};
    use proto::status::ErrorCode;

    use super::*;
    use crate::logic::Ticket;

    fn open(link: Link, address: &str) -> Effect {
        Effect::Network(NetworkEffect::Open { link, address: address.to_owned() })
    }

    fn close(link: Link) -> Effect {
        Effect::Network(NetworkEffect::Close { link })
    }

    fn send(link: Link) -> Effect {
        Effect::Network(NetworkEffect::Send { to: Peer::Link(link), record: vec![1] })
    }

    fn share(links: &mut Links, effects: Vec<Effect>) -> Vec<Effect> {
        let mut effects = effects;
        links.share(0, &mut effects);
        links.check_invariants();
        effects
    }

    fn receiver(links: &Links, link: Link, record: &[u8]) -> Option<Link> {
        links.receiver(link, &Records::of(record).next().unwrap().unwrap())
    }

    #[test]
    fn all_parts_share_one_connection_to_an_address() {
        let mut links = Links::default();
        let (fetches, registers) = (User::Fetches.link(0), User::Registers.link(7));
        let shared = Link(FIRST_SHARED);
        let effects = share(&mut links, vec![open(fetches, "a"), send(fetches)]);
        assert_eq!(effects, [open(shared, "a"), send(shared)]);
        let effects = share(&mut links, vec![open(registers, "a"), send(registers)]);
        assert_eq!(effects, [send(shared)]);
        assert_eq!(share(&mut links, vec![open(Link(1), "m"), send(Link(1))]).len(), 2);
        assert_eq!(links.carried(shared), [fetches, registers]);
        assert_eq!(links.carried(Link(1)), [Link(1)]);
    }

    #[test]
    fn what_comes_in_goes_to_whoever_asks_such_questions() {
        let mut links = Links::default();
        let (fetches, registers) = (User::Fetches.link(0), User::Registers.link(0));
        share(&mut links, vec![open(fetches, "a"), open(registers, "a")]);
        let shared = Link(FIRST_SHARED);
        let content = record::encode(&BlockContent::default(), &[b""]);
        let copied = record::encode(&RegisterCopied::default(), &[]);
        assert_eq!(receiver(&links, shared, &content), Some(fetches));
        assert_eq!(receiver(&links, shared, &copied), Some(registers));
        let refusal = |of| Refusal::new(ErrorCode::Busy, of, "").to_record(RequestId(1));
        assert_eq!(receiver(&links, shared, &refusal(BlockGet::TYPE)), Some(fetches));
        assert_eq!(receiver(&links, shared, &refusal(RegisterSeal::TYPE)), Some(registers));
        assert_eq!(receiver(&links, shared, &refusal(BlockOffer::TYPE)), None);
        assert_eq!(receiver(&links, Link(1), &copied), Some(Link(1)));
    }

    #[test]
    fn who_closes_closes_for_all_and_the_others_open_again_when_they_send() {
        let mut links = Links::default();
        let (fetches, registers) = (User::Fetches.link(0), User::Registers.link(0));
        share(&mut links, vec![open(fetches, "a"), open(registers, "a")]);
        let (first, second) = (Link(FIRST_SHARED), Link(FIRST_SHARED + 1));
        assert_eq!(share(&mut links, vec![close(fetches)]), [close(first)]);
        assert_eq!(links.carried(first), []);
        let effects = share(&mut links, vec![send(registers)]);
        assert_eq!(effects, [open(second, "a"), send(second)]);
        assert_eq!(share(&mut links, vec![send(fetches)]), [], "it has no link any more");
        assert_eq!(share(&mut links, vec![close(registers)]), [close(second)]);
        assert_eq!(share(&mut links, vec![close(registers)]), []);
    }

    #[test]
    fn what_was_read_goes_the_same_way_or_is_discarded() {
        let mut links = Links::default();
        let (reconcile, ticket) = (User::Reconcile.link(0), Ticket(5));
        let answer = |link| {
            let (to, request_id) = (Peer::Link(link), RequestId(1));
            Effect::Answer { to, request_id, ticket }
        };
        let effects = share(&mut links, vec![open(reconcile, "a"), answer(reconcile)]);
        assert_eq!(effects[1], answer(Link(FIRST_SHARED)));
        let effects = share(&mut links, vec![close(reconcile), answer(reconcile)]);
        assert_eq!(effects, [close(Link(FIRST_SHARED)), Effect::Discard { ticket }]);
        assert_eq!(share(&mut links, vec![answer(Link(9))]), [answer(Link(9))]);
    }

    #[test]
    fn a_link_that_is_opened_to_another_address_leaves_the_first() {
        let mut links = Links::default();
        let fetches = User::Fetches.link(0);
        share(&mut links, vec![open(fetches, "a")]);
        let (first, second) = (Link(FIRST_SHARED), Link(FIRST_SHARED + 1));
        let effects = share(&mut links, vec![open(fetches, "b"), send(fetches)]);
        assert_eq!(effects, [close(first), open(second, "b"), send(second)]);
    }
}
