//! The masters: the only owners of truth about jobs, results, names and membership.
