//! The phone against itself, against a companion made of raw keys, and against bad networks.

mod group;
mod history;
mod link_code;
mod linking;
mod random;
mod resends;
mod strict;
mod texting;
mod world;
