//! Tests of the logic.
