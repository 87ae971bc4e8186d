//! Groups: who is in them, how they change, and how a message reaches every device of every member.
//!
//! | file | job |
//! |---|---|
//! | `roster` | a group's members and properties |
//! | `change` | creating and changing, with the notifications everybody gets |
//! | `query` | the `w:g2` namespace |
//! | `message` | one ciphertext for all, sender keys per device |
//! | `receipt` | receipts with a participant |

mod change;
mod message;
mod query;
mod receipt;
mod roster;

pub(crate) use change::GroupChange;
pub use change::GroupError;
pub(super) use roster::Groups;
pub use roster::{GroupInfo, GroupMember, GroupRole};
