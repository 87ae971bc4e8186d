//! What a daemon exposes to monitoring, as far as doctor asks.

/// An answer to `GET /metrics`.
#[derive(Debug)]
pub(super) struct Metrics(String);

impl Metrics {
    /// Takes the answer, head and body.
    pub(super) fn new(answer: String) -> Self {
        Self(answer)
    }

    /// The value of a series without labels.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let line = self.0.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }
}
