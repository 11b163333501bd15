//! Counters of one server. The node turns them into its exported metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one server; all only rise. Opened minus closed is what is open.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Metrics {
            /// Every counter by name, for an exporter.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.load(Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted and given a thread.
    connections_opened,
    /// Connections that ended, for whatever reason.
    connections_closed,
    /// Connections closed at accept: over the cap, stopping, or no thread to be had.
    connections_refused,
    /// Connections that entered transmission.
    transmissions,
    /// Handshakes ended by a violation or by the deadline.
    handshakes_failed,
    /// Connections that went on with TLS.
    tls_handshakes,
    /// Connections whose TLS handshake failed, also for a certificate that is not accepted.
    tls_failed,
    /// Connections that wanted something in plain text from a listener that requires TLS.
    plain_refused,
    /// Exports that a client asked for and may not have.
    exports_refused,
    /// Transmissions ended because the client broke the protocol.
    protocol_errors,
    /// Connections ended because their volume is written at another node now, after a planned swap.
    handed_over,
    /// READ requests.
    reads,
    /// WRITE requests.
    writes,
    /// FLUSH requests.
    flushes,
    /// TRIM requests.
    trims,
    /// WRITE_ZEROES requests.
    zeroes,
    /// CACHE requests.
    caches,
    /// BLOCK_STATUS requests.
    block_statuses,
    /// Requests with the FUA flag.
    fua,
    /// Requests of an unknown kind.
    unknown_commands,
    /// Requests answered with an error.
    errors,
    /// Bytes of READ replies.
    bytes_read,
    /// Bytes written.
    bytes_written,
    /// Reads that were not in memory and went to the worker pool.
    reads_deferred,
    /// Large reads that went to the worker pool because another request waited behind them.
    reads_overlapped,
    /// Requests run on the connection's own thread because pool or budget had no room.
    ran_inline,
    /// Zero areas sent as hole chunks.
    hole_chunks,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
