//! Readers of a pin race with threads that overwrite the base; with real threads and with the
//! model checker.

use std::sync::Arc;

use rcp::proto::ids::SetNumber;

use super::rig::{File, SIZE, layout};
use super::*;
use crate::io::IoError;
use crate::sync::Mutex;
use crate::units::{BlockCount, BlockIndex};

#[cfg(shuttle)]
use shuttle::thread;
#[cfg(not(shuttle))]
use std::thread;

/// One lock per call, so that calls of several threads mix.
#[derive(Clone)]
struct Shared(Arc<(Mutex<File>, Mutex<File>)>);

impl AreaIo for Shared {
    fn read_base(&mut self, block: BlockIndex, buf: &mut [u8]) -> Result<(), IoError> {
        buf.copy_from_slice(&self.0.0.lock().now[block.0 as usize * SIZE..][..SIZE]);
        Ok(())
    }

    fn read_area(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        buf.copy_from_slice(&self.0.1.lock().now[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write_area(&mut self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.0.1.lock().write(offset, data);
        Ok(())
    }

    fn sync_area(&mut self) -> Result<(), IoError> {
        Ok(())
    }
}

fn race(blocks: u64, slots: u32, writes: u64, reads: u64) {
    let l = layout(slots);
    let mut area = File::default();
    area.now = vec![0; l.file_len() as usize];
    let mut base = File::default();
    base.now = vec![1; blocks as usize * SIZE];
    let io = Shared(Arc::new((Mutex::new(base), Mutex::new(area))));
    let store = Arc::new(SnapshotStore::new(l));
    let pin = store.pin(SetNumber(1), PinKind::Ephemeral);
    let durable = store.pin(SetNumber(1), PinKind::Durable);
    assert_eq!(pin, durable);
    let writers: Vec<_> = (0..2u64)
        .map(|n| {
            let (store, mut io) = (store.clone(), io.clone());
            thread::spawn(move || {
                for i in 0..writes {
                    let first = (i * 3 + n) % blocks;
                    let count = 2.min(blocks - first);
                    store
                        .preserve(BlockIndex(first), BlockCount(count), &mut io)
                        .expect("memory does not fail");
                    let data = vec![9; count as usize * SIZE];
                    io.0.0.lock().write(first * SIZE as u64, &data);
                }
            })
        })
        .collect();
    let mut reader = io.clone();
    for i in 0..reads {
        let mut buf = [0; SIZE];
        match store.read_block(pin, BlockIndex(i % blocks), &mut buf, &mut reader) {
            Ok(()) => assert_eq!(buf, [1; SIZE]),
            Err(PinReadError::Pin(SnapshotError::Broken { .. })) if u64::from(slots) < blocks => {}
            Err(e) => panic!("{e}"),
        }
        thread::yield_now();
    }
    writers.into_iter().for_each(|w| w.join().expect("writer"));
    let broken = store.info(pin).is_some_and(|i| i.broken.is_some());
    assert!(!broken || u64::from(slots) < blocks);
}

#[cfg(not(shuttle))]
#[test]
fn threads() {
    race(64, 64, 20_000, 100_000);
    race(64, 40, 5_000, 10_000);
}

#[cfg(shuttle)]
#[test]
fn shuttle_pins_never_change() {
    shuttle::check_random(|| race(3, 3, 3, 6), 1500);
    shuttle::check_random(|| race(3, 2, 3, 6), 1500);
}
