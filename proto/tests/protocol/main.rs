//! What the protocol promises, checked from outside: layouts, golden bytes, decoding of anything,
//! and the files that are made from the catalogue.
//!
//! `UPDATE=1 cargo test -p proto` writes those files anew; their differences are reviewed.

#![expect(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod c_header;
mod decode;
mod enums;
mod generated;
mod golden;
mod layout;
mod markdown;
