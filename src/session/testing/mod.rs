//! What the tests of sessions stand on: a scripted server below, a daemon's worth of sessions above.

mod clock;
mod harness;
mod world;

pub(super) use harness::{Harness, PATIENCE, eventually, far_future, person, quick, transient};
pub(super) use world::{AckMode, Control, Plan, UploadPlan};
