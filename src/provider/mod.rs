//! Providers: what carries messages. One contract, one folder per provider.

pub mod contract;
pub mod multidevice;
