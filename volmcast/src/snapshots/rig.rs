//! A base and an area in memory, of which only what was synced is sure to survive a power cut.

#![cfg_attr(shuttle, allow(dead_code, reason = "the model checker needs only a part"))]

use rcp::proto::ids::VolumeId;

use super::layout::AreaLayout;
use super::store::AreaIo;
use crate::io::IoError;
use crate::units::{BlockIndex, BlockSize};

pub(super) const SIZE: usize = 512;

pub(super) fn layout(slots: u32) -> AreaLayout {
    let block = BlockSize::from_bytes(SIZE as u64).expect("a power of two");
    AreaLayout { volume: VolumeId([3; 16]), block, slots }
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) now: Vec<u8>,
    synced: Vec<u8>,
}

impl File {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.now.resize(self.now.len().max(at + data.len()), 0);
        self.now[at..at + data.len()].copy_from_slice(data);
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.now.clone();
    }

    /// A power cut: sectors not synced survive where `pick` has a bit.
    pub(super) fn cut(&mut self, pick: u64) {
        self.synced.resize(self.now.len(), 0);
        for (i, old) in self.synced.chunks(SIZE).enumerate() {
            if pick.rotate_left(i as u32 * 7) & 1 == 0 {
                self.now[i * SIZE..][..old.len()].copy_from_slice(old);
            }
        }
        self.sync();
    }
}

#[derive(Clone, Default)]
pub(super) struct Rig {
    pub(super) base: File,
    pub(super) area: File,
    /// Calls until everything fails, if it ever does.
    pub(super) fuse: Option<u32>,
}

impl Rig {
    pub(super) fn new(blocks: usize, layout: &AreaLayout) -> Self {
        let mut rig = Self::default();
        rig.base.now = vec![0; blocks * SIZE];
        layout.format().for_each(|(offset, bytes)| rig.area.write(offset, &bytes));
        rig.area.now.resize(layout.file_len() as usize, 0);
        rig.base.sync();
        rig.area.sync();
        rig
    }

    fn burn(&mut self) -> Result<(), IoError> {
        match &mut self.fuse {
            Some(0) => Err(IoError::Os(5)),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl AreaIo for Rig {
    fn read_base(&mut self, block: BlockIndex, buf: &mut [u8]) -> Result<(), IoError> {
        self.burn()?;
        buf.copy_from_slice(&self.base.now[block.0 as usize * SIZE..][..SIZE]);
        Ok(())
    }

    fn read_area(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.burn()?;
        buf.copy_from_slice(&self.area.now[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write_area(&mut self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.burn()?;
        self.area.write(offset, data);
        Ok(())
    }

    fn sync_area(&mut self) -> Result<(), IoError> {
        self.burn()?;
        self.area.sync();
        Ok(())
    }
}
