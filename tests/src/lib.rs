//! Whole clusters of shipped logic in virtual time, and real processes under faults.
mod bank;
mod checkers;
mod disk;
mod random;
mod trace;
mod agenda;
