//! The copies of registers that this node has durably, and the parts that it has sealed: what it
//! answers from.

use std::collections::BTreeMap;

use proto::ids::RingVersion;
use proto::limits;
use proto::messages::register::RegisterEntry;
use proto::register::{Part, part_of};

use crate::registers::{Change, Recovered, Register};

/// A page of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// By address.
    pub(super) registers: Vec<Register>,
    /// Whether there is more behind the last of them.
    pub(super) has_more: bool,
}

/// What is durable.
#[derive(Debug)]
pub(super) struct Copies {
    part_count: u32,
    registers: BTreeMap<(Part, u64), Register>,
    sealed: BTreeMap<Part, RingVersion>,
}

impl Default for Copies {
    fn default() -> Copies {
        Copies {
            part_count: limits::REGISTER_PARTITIONS,
            registers: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }
}

impl Copies {
    /// What a start found.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        recovered.registers.into_iter().for_each(|register| self.keep(register));
        self.sealed.extend(recovered.seals);
    }

    /// The ring has this number of parts, which never changes in a cluster's life.
    pub(super) fn divide(&mut self, part_count: u32) {
        if part_count != self.part_count {
            self.part_count = part_count;
            let registers = std::mem::take(&mut self.registers);
            registers.into_values().for_each(|register| self.keep(register));
        }
    }

    pub(super) fn get(&self, address: u64) -> Option<&Register> {
        self.registers.get(&(part_of(address, self.part_count), address))
    }

    /// Whether a register would be a change.
    pub(super) fn wants(&self, register: &Register) -> bool {
        self.get(register.address).is_none_or(|there| there.tag < register.tag)
    }

    /// The highest version under which a part is durably not served any more.
    pub(super) fn sealed(&self, part: Part) -> Option<RingVersion> {
        self.sealed.get(&part).copied()
    }

    /// A change became durable.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Keep(registers) => {
                registers.into_iter().for_each(|register| self.keep(register));
            }
            Change::Seal { part, version } => self.seal(part, version),
            Change::Forget { part, version, addresses } => {
                self.seal(part, version);
                for address in addresses {
                    self.registers.remove(&(part, address));
                }
            }
        }
    }

    fn keep(&mut self, register: Register) {
        if self.wants(&register) {
            let key = (part_of(register.address, self.part_count), register.address);
            self.registers.insert(key, register);
        }
    }

    fn seal(&mut self, part: Part, version: RingVersion) {
        let sealed = self.sealed.entry(part).or_insert(version);
        *sealed = version.max(*sealed);
    }

    /// A page of a part from an address on.
    pub(super) fn page(&self, part: Part, first_address: u64) -> Page {
        let mut page = Page::default();
        let mut bytes = 0;
        for (_, register) in self.registers.range((part, first_address)..=(part, u64::MAX)) {
            if bytes >= limits::REGISTER_PAGE_BYTES {
                page.has_more = true;
                break;
            }
            bytes += size_of::<RegisterEntry>() + register.value.len();
            page.registers.push(register.clone());
        }
        page
    }

    /// The first addresses of a part that there are copies of.
    pub(super) fn addresses(&self, part: Part, count: usize) -> Vec<u64> {
        let part = self.registers.range((part, 0)..=(part, u64::MAX));
        part.take(count).map(|(&(_, address), _)| address).collect()
    }
}
