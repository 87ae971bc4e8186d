//! Sessions driven from both ends: commands on one side, a scripted server on the other.

mod connecting;
mod crashing;
mod etags;
mod fetching;
mod fleet;
mod groups;
mod pairing;
mod receiving;
mod room;
mod sending;
mod uploading;
