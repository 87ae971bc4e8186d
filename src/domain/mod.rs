//! The vocabulary of Trunkline: plain values without I/O, a runtime or storage.
//!
//! Everything above this module speaks in these types; nothing here imports anything of ours.

pub mod clock;
pub mod event;
pub mod group;
pub mod ids;
pub mod media;
pub mod message;
pub mod person;
pub mod phone;
pub mod session;
pub mod workspace;
