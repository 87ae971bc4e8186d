//! What runners add to the fleet's gauges, and take back however they end.

/// One runner's share.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    streams: usize,
    leases: usize,
}

impl Gauges {
    /// Reports what the runner holds now.
    pub(super) fn report(&mut self, streams: usize, leases: usize) {
        metrics::gauge!("trunkline_delivery_streams").increment(difference(self.streams, streams));
        metrics::gauge!("trunkline_delivery_leases").increment(difference(self.leases, leases));
        self.streams = streams;
        self.leases = leases;
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.report(0, 0);
    }
}

fn difference(before: usize, after: usize) -> f64 {
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    count(after) - count(before)
}
