//! Whole clusters of shipped logic in virtual time, and real processes under faults.
