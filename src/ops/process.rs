//! What the operating system says about this process. A figure that it does not give is left out.

use std::path::Path;

use metrics::gauge;

/// Writes the gauges of the process, and of the file system that holds `state_dir`.
#[allow(
    clippy::cast_precision_loss,
    reason = "gauges are floats; these stay below 2^52"
)]
pub(super) fn record(state_dir: &Path) {
    if let Some(bytes) = resident_bytes() {
        gauge!("trunkline_process_resident_bytes").set(bytes as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("trunkline_process_open_files").set(open.count() as f64);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    gauge!("trunkline_process_open_files_limit").set(limit.map_or(f64::INFINITY, |n| n as f64));
    if let Some(bytes) = free_bytes(state_dir) {
        gauge!("trunkline_store_free_bytes").set(bytes as f64);
    }
}

/// Bytes that a process without privileges can still write in the file system of `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
