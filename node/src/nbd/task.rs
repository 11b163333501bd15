//! One request in the worker pool: what it does and how its reply is made.

use super::budget::Chunk;
use super::export::{Errno, Export};
use super::limits::MAX_EXTENTS;
use super::metrics::{Metrics, add};
use super::outbox::{Outbox, Parcel};
use super::pool::Job;
use super::proto::{self, DATA_CHUNK_LEN, Negotiated, Request, SIMPLE_LEN};
use std::sync::Arc;

/// The work itself.
#[derive(Debug)]
pub(crate) enum Work {
    /// Reads into the chunk, whose first [`DATA_CHUNK_LEN`] bytes are kept for the reply's header.
    Read(Chunk),
    Write {
        data: Chunk,
        fua: bool,
    },
    Flush,
    Trim {
        fua: bool,
    },
    Zero {
        fua: bool,
        no_hole: bool,
        fast: bool,
    },
    Cache,
    BlockStatus {
        one: bool,
    },
}

/// A request on its way through the pool. It has entered the outbox; when it is dropped without a
/// reply having been posted (an export panicked), the peer gets EIO.
pub(crate) struct Task {
    pub(crate) request: Request,
    pub(crate) work: Option<Work>,
    pub(crate) negotiated: Negotiated,
    pub(crate) export: Option<Arc<dyn Export>>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) posted: bool,
}

/// Does the work and makes the reply. `None`: there is none, the connection has to end
/// ([`Export::is_handed_over`]).
pub(crate) fn carry_out(
    r: &Request,
    work: Work,
    negotiated: Negotiated,
    export: &dyn Export,
    metrics: &Metrics,
) -> Option<Parcel> {
    let (offset, len) = (r.offset, u64::from(r.len));
    let durable = |result: Result<(), Errno>, fua: bool| match result {
        Ok(()) if fua => export.flush(),
        other => other,
    };
    let done = match work {
        Work::Read(chunk) => read(r, chunk, negotiated, export, metrics),
        Work::BlockStatus { one } => block_status(r, one, export),
        Work::Write { data, fua } => {
            let bytes = data.bytes().get(..r.len as usize).unwrap_or_default();
            let written = export.write(offset, bytes);
            if written.is_ok() {
                add(&metrics.bytes_written, len);
            }
            durable(written, fua).map(|()| success(r))
        }
        Work::Flush => export.flush().map(|()| success(r)),
        Work::Trim { fua } => durable(export.trim(offset, len), fua).map(|()| success(r)),
        Work::Zero { fua, no_hole, fast } => {
            durable(export.zero(offset, len, no_hole, fast), fua).map(|()| success(r))
        }
        Work::Cache => export.cache(offset, len).map(|()| success(r)),
    };
    match done {
        Ok(parcel) => Some(parcel),
        Err(_) if export.is_handed_over() => None,
        Err(e) => Some(failure(r, e, negotiated, metrics)),
    }
}

fn success(r: &Request) -> Parcel {
    Parcel::small(proto::simple(r.cookie, None).to_vec())
}

fn failure(r: &Request, e: Errno, negotiated: Negotiated, metrics: &Metrics) -> Parcel {
    add(&metrics.errors, 1);
    let mut out = Vec::new();
    proto::error(&mut out, r.cookie, e, negotiated.structured);
    Parcel::small(out)
}

fn block_status(r: &Request, one: bool, export: &dyn Export) -> Result<Parcel, Errno> {
    let max = if one { 1 } else { MAX_EXTENTS };
    let mut extents = export.block_status(r.offset, u64::from(r.len), max)?;
    extents.truncate(max);
    let mut out = Vec::new();
    proto::block_status(&mut out, r.cookie, r.len, &extents, one);
    Ok(Parcel::small(out))
}

fn read(
    r: &Request,
    mut chunk: Chunk,
    negotiated: Negotiated,
    export: &dyn Export,
    metrics: &Metrics,
) -> Result<Parcel, Errno> {
    let end = DATA_CHUNK_LEN + r.len as usize;
    let data = chunk.bytes_mut().get_mut(DATA_CHUNK_LEN..end).ok_or(Errno::NoMem)?;
    export.read(r.offset, data)?;
    add(&metrics.bytes_read, u64::from(r.len));
    let start = put_read_header(chunk.bytes_mut(), r, negotiated, true);
    Ok(Parcel::new(chunk, start, end))
}

/// Writes the header of a READ reply of one chunk right before its data, which begins at
/// [`DATA_CHUNK_LEN`]; returns where the header begins.
pub(crate) fn put_read_header(
    buf: &mut [u8],
    r: &Request,
    negotiated: Negotiated,
    done: bool,
) -> usize {
    if negotiated.structured {
        buf[..DATA_CHUNK_LEN].copy_from_slice(&proto::data_chunk(r.cookie, done, r.offset, r.len));
        0
    } else {
        let start = DATA_CHUNK_LEN - SIMPLE_LEN;
        buf[start..DATA_CHUNK_LEN].copy_from_slice(&proto::simple(r.cookie, None));
        start
    }
}

impl Job for Task {
    fn owner(&self) -> usize {
        let export = self.export.as_ref().map_or(0, |e| Arc::as_ptr(e).cast::<()>().addr());
        // Changes may be held for long: what only reads does not wait for them. No export begins at
        // an odd address.
        let changes =
            matches!(self.work, Some(Work::Write { .. } | Work::Trim { .. } | Work::Zero { .. }));
        export + usize::from(changes)
    }

    fn run(mut self) {
        let (Some(work), Some(export)) = (self.work.take(), self.export.take()) else { return };
        let parcel = carry_out(&self.request, work, self.negotiated, &*export, &self.metrics);
        // the export is let go before the request counts as finished
        drop(export);
        self.posted = true;
        match parcel {
            Some(parcel) => self.outbox.post(parcel),
            None => {
                add(&self.metrics.handed_over, 1);
                self.outbox.kill();
                self.outbox.leave();
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.export = None;
        if !self.posted {
            let parcel = failure(&self.request, Errno::Io, self.negotiated, &self.metrics);
            self.outbox.post(parcel);
        }
    }
}
