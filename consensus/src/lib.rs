//! A replicated state machine as a library.
