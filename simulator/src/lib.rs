//! A loopback WhatsApp: good enough that clients nobody here wrote pair, open and talk through it.
//!
//! Clients connect to [`Simulator::ws_url`] or [`Simulator::wss_url`] as they would to WhatsApp.
//! Simulated people with real Signal state scan their QR codes, write to them and read what they
//! send. Faults are ordered per device or for everyone, and an append-only [`Ledger`] tells what
//! really happened. Everything derives from one seed.
//!
//! ```text
//!  clients ──TCP──▶ server/ ──▶ noise/ ──stanzas──▶ hub/ ◀──▶ phone/   (people, in process)
//!                   TLS, WebSocket   XX, IK           │ directory/  accounts, devices, prekeys
//!  tests, demo ──▶ simulator.rs ─┐                    │ faults.rs   what goes wrong when
//!  HTTP ────────▶ control/ ──────┴──▶ core.rs ────────┘ ledger.rs   the truth
//! ```
//!
//! | module | job |
//! |---|---|
//! | `simulator` | [`Simulator`]: bind, handles, waits, shutdown; no task outlives it |
//! | `server` | sockets up to the finished handshake |
//! | `noise` | Noise responder, certificate chain under the simulator's own root |
//! | `hub` | the server's behaviour, one stanza at a time, under one lock |
//! | `directory` | accounts, devices and the keys they published |
//! | `media` | the media host: encrypted blobs over HTTPS |
//! | `phone` | simulated people's phones, sans-I/O |
//! | `account`, `group` | handles on a person and on a group |
//! | `faults`, `ledger` | what to break, and what happened |
//! | `control` | the same abilities over HTTP |

mod account;
mod clock;
mod control;
mod core;
mod directory;
mod faults;
mod group;
mod hub;
mod ledger;
mod media;
mod noise;
pub mod phone;
mod seed;
mod server;
mod simulator;
mod truth;
mod wire;

pub use account::{Account, NewAccount, NewAccountError};
pub use clock::{Clock, ManualClock, SystemClock};
pub use faults::{Fault, FaultSpec, FaultTarget};
pub use group::Group;
pub use hub::{
    CallEnd, Census, CodeFailure, GroupError, GroupInfo, GroupMember, GroupRole, PeopleError,
    ScanFailure,
};
pub use ledger::{Entry, Fact, Ledger};
pub use noise::NoisePattern;
pub use phone::{
    Attachment, ChatChange, Inbound, MediaKind, MediaSeen, Outbound, Undecryptable, Violation,
    ViolationKind,
};
pub use server::TlsError;
pub use simulator::{BindError, DeviceInfo, FaultError, Simulator, SimulatorConfig, WaitError};
pub use truth::Truth;
