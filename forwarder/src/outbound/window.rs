//! What one child has room for: bytes granted in total against bytes sent in total.

/// Never lets more be sent than was granted. Totals only grow, so a grant that is late or doubled
/// does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    granted: u64,
    sent: u64,
}

impl Window {
    pub(super) fn new(granted: u64) -> Self {
        Self { granted, sent: 0 }
    }

    pub(super) fn grant(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    pub(super) fn available(&self) -> u64 {
        self.granted.saturating_sub(self.sent)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts a body if it fits, and says whether it does.
    pub(super) fn take(&mut self, len: u64) -> bool {
        let fits = len <= self.available();
        if fits {
            self.sent += len;
        }
        fits
    }
}
