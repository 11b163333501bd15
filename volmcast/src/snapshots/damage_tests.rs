//! What may never change on disk, and what damage may never do: be read as if it were right.

use rcp::proto::ids::{SetNumber, VolumeId};

use super::layout::{AreaState, ENTRY, Entry, SUPERBLOCK, Slot, TABLE_AT, parse_superblocks};
use super::rig::{Rig, SIZE, layout};
use super::*;
use crate::units::{BlockCount, BlockIndex, BlockSize};

/// The bytes of these forms may never change.
#[test]
fn golden_vectors() {
    let l = layout(6);
    let s = l.superblocks(AreaState { broken_through: PinId(0x102), sequence: 7 });
    let mut want = vec![0; 508];
    #[rustfmt::skip]
    want[..48].copy_from_slice(&[
        b'V', b'C', b'S', b'N', b'A', b'P', b'S', b'H', // magic
        1, 0, 9, 0,             // version, 512 bytes, zero
        6, 0, 0, 0,             // slots
        3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, // volume
        2, 1, 0, 0, 0, 0, 0, 0, // broken through
        7, 0, 0, 0, 0, 0, 0, 0, // sequence
    ]);
    want.extend([79, 53, 23, 27]);
    assert_eq!(s[..512], want);
    assert!(s[512..SUPERBLOCK].iter().all(|b| *b == 0));
    assert_eq!(s[..SUPERBLOCK], s[SUPERBLOCK..]);
    let used = Entry::Used { pin: PinId(5), block: BlockIndex(0x304), crc: 0x0a0b_0c0d, order: 9 };
    #[rustfmt::skip]
    assert_eq!(l.entry(Slot(1), used), [
        5, 0, 0, 0, 0, 0, 0, 0, // pin
        4, 3, 0, 0, 0, 0, 0, 0, // block
        0x0d, 0x0c, 0x0b, 0x0a, // checksum of the image
        9, 0, 0, 0, 0, 0,       // order
        2, 0,                   // used, zero
        255, 70, 195, 89,       // checksum
    ]);
    assert_eq!(l.entry(Slot(1), Entry::Free)[24..], [0, 0, 1, 0, 252, 157, 205, 159]);
    assert_eq!((l.slot_offset(Slot(0)), l.file_len()), (12288, 12288 + 6 * 512));
}

#[test]
fn entries_belong_to_their_slot_and_are_never_zero() {
    let l = layout(6);
    let e = l.entry(Slot(1), Entry::Free);
    assert_eq!(l.parse_entry(Slot(1), &e), Some(Entry::Free));
    assert_eq!(l.parse_entry(Slot(2), &e), None);
    assert_eq!(l.parse_entry(Slot(1), &[0; ENTRY]), None);
    assert_eq!(l.parse_entry(Slot(1), &e[1..]), None);
    let other = layout::AreaLayout { volume: VolumeId([4; 16]), ..l };
    assert_eq!(other.parse_entry(Slot(1), &e), None);
    let pieces: Vec<_> = layout(100_000).format().map(|(o, b)| (o, b.len())).collect();
    assert_eq!(pieces.len(), 5);
    assert_eq!(pieces[4], (0, 8192), "the superblocks last");
}

/// Two durable pins with images; then every single bit of everything that was written is flipped.
#[test]
fn no_flip_is_read_as_if_it_were_right() {
    let l = layout(6);
    let mut rig = Rig::new(4, &l);
    let store = SnapshotStore::new(l);
    let mut write = |store: &SnapshotStore, b: u64, v: u8| {
        store.preserve(BlockIndex(b), BlockCount(1), &mut rig).expect("memory");
        rig.base.write(b * SIZE as u64, &[v; SIZE]);
    };
    let one = store.pin(SetNumber(1), PinKind::Durable);
    write(&store, 0, 1);
    write(&store, 1, 1);
    let two = store.pin(SetNumber(2), PinKind::Durable);
    write(&store, 1, 2);
    write(&store, 2, 2);
    let truth = [(one, [0, 0, 0, 0]), (two, [1, 1, 0, 0])];
    let listed = [(one, SetNumber(1)), (two, SetNumber(2))];
    let slots = l.slot_offset(Slot(0)) as usize;
    let written = (0..512).chain(TABLE_AT as usize..TABLE_AT as usize + 6 * ENTRY);
    let bits = written.flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    let data = (slots..slots + 4 * SIZE).map(|byte| (byte, byte % 8));
    let (mut refused, mut fine) = (0, 0);
    for (byte, bit) in bits.chain(data) {
        let mut rig = rig.clone();
        rig.area.now[byte] ^= 1 << bit;
        let area = &rig.area.now;
        let table = &area[TABLE_AT as usize..][..6 * ENTRY];
        let r = SnapshotStore::recover(l.volume, l.block, &area[..8192], table, &listed)
            .expect("one superblock is whole");
        for u in &r.unproved {
            let slot = &area[u.offset as usize..][..SIZE];
            let _ = r.store.prove(u, slot, &rig.base.now[u.block.0 as usize * SIZE..][..SIZE]);
        }
        for (pin, content) in truth {
            for (b, want) in content.iter().enumerate() {
                let mut buf = [0; SIZE];
                match r.store.read_block(pin, BlockIndex(b as u64), &mut buf, &mut rig) {
                    Ok(()) => assert_eq!(buf, [*want; SIZE], "byte {byte} bit {bit}"),
                    Err(_) => refused += 1,
                }
                fine += 1;
            }
        }
        assert_eq!(r.damaged.is_empty(), !(8192..slots).contains(&byte));
    }
    assert!(refused > 0 && refused < fine);
}

#[test]
fn lost_tables_and_superblocks_are_named() {
    let l = layout(6);
    let rig = Rig::new(4, &l);
    let listed = [(PinId(1), SetNumber(1))];
    let area = &rig.area.now;
    let table = &area[TABLE_AT as usize..][..6 * ENTRY];
    let recover = |sb: &[u8], table: &[u8]| {
        SnapshotStore::recover(l.volume, l.block, sb, table, &listed).map(|r| {
            let events = r.store.take_events();
            (r.damaged.len(), r.store.info(PinId(1)).and_then(|i| i.broken), events.len())
        })
    };
    assert_eq!(recover(&area[..8192], table), Ok((0, None, 0)));
    let lost = Some(BrokenBecause::TableDamaged);
    assert_eq!(recover(&area[..8192], &table[..40]), Ok((5, lost, 1)));
    assert_eq!(recover(&area[..8192], &[0; 6 * ENTRY]), Ok((6, lost, 1)));
    assert_eq!(recover(&area[..4096], table), Ok((0, None, 0)), "one superblock is enough");
    assert_eq!(recover(&[0; 8192], table), Err(RecoverError::Superblock));
    assert_eq!(recover(&[], table), Err(RecoverError::Superblock));
    let foreign = SnapshotStore::recover(VolumeId([1; 16]), l.block, &area[..8192], table, &[]);
    assert_eq!(foreign.map(|_| ()), Err(RecoverError::Foreign(l.volume)));
    let size = BlockSize::DEFAULT;
    assert!(SnapshotStore::recover(l.volume, size, &area[..8192], table, &[]).is_err());
    assert_eq!(parse_superblocks(&area[..8191]).map(|(l, _)| l.slots), Some(6));
}
