//! Delivery: leases of journal events to competing consumers.
//!
//! `dispatch` decides, as a pure machine; `token` names leases to clients; `runner` is the one task of a
//! subscription, which feeds the machine from the journal and makes its decisions durable; `forward` is
//! the task of one stream, which fetches payloads; [`Hub`] starts and finds runners. Leases live in memory
//! and die with the daemon; what is settled is in the store.
//!
//! An ack is confirmed after it is durable: it joins the next write of its subscription, of which one is
//! under way at a time, so it waits for two commits at most.

mod calls;
mod consumer;
mod dispatch;
mod forward;
mod gauges;
mod hub;
mod journal;
mod lag;
mod path;
mod runner;
#[cfg(test)]
mod tests;
mod token;

pub use calls::{LeaseError, Outcomes};
pub use consumer::{
    Consumer, Delivered, Delivery, Gone, Operation, OperationKind, Outcome, Settled, Settler,
};
pub use dispatch::Credit;
pub use hub::{Hub, OpenError, SETTLE, WINDOW};
pub use lag::oldest_unacked;
pub use runner::{LiveDelivery, Stopped};
