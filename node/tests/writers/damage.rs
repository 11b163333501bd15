//! Damaged content and the change of the writer (promise 4).

use node::volumes::open::Opened;
use volmcast::io::FileId;

use super::*;

const BLOCK: u64 = 4096;

impl Rig {
    fn opened(&self, n: &str) -> &Opened {
        self.nodes[n].vol.as_ref().expect("a volume")
    }

    /// A bit of the content flips.
    fn rot(&self, n: &str, block: u64) {
        use std::os::unix::fs::FileExt;
        let f = self.opened(n).files.file(FileId::Base);
        let mut b = [0];
        f.read_exact_at(&mut b, block * BLOCK + 9).expect("read");
        f.write_all_at(&[b[0] ^ 4], block * BLOCK + 9).expect("written");
    }

    /// A reader of the replica.
    fn reads(&self, n: &str, block: u64) -> Result<u8, String> {
        let states = self.opened(n).states.as_ref().expect("states");
        let pin = states.board().pin_visible()?;
        let mut b = [0; 4096];
        states.read(&pin, block * BLOCK, &mut b).map_err(|e| e.to_string())?;
        Ok(b[9])
    }

    /// A client of the writer.
    pub(super) fn client(&self, n: &str) -> std::sync::Arc<node::volumes::PrimaryVolume> {
        self.opened(n).primary.clone().expect("a writer")
    }

    fn client_reads(&self, n: &str, block: u64) -> Result<u8, node::nbd::Errno> {
        let mut b = [0; 512];
        self.client(n).read(block * BLOCK, &mut b).map(|()| b[9])
    }

    fn promote_at_any_price(&mut self, n: &str) -> String {
        let (volume, now, at, above) = ("vol".to_owned(), false, None, 0);
        let lose_damaged_blocks = true;
        let ask =
            self.change(n, WriterChange::Promote { volume, now, at, above, lose_damaged_blocks });
        self.pass(100);
        self.told(n, ask)
    }

    pub(super) fn info(&self, n: &str) -> node::api::VolumeInfo {
        self.nodes[n].mover.status().volumes.into_iter().next().expect("a volume")
    }
}

#[test]
fn a_replica_that_knows_of_damage_is_not_promoted_before_it_is_whole() {
    let mut r = two();
    r.rot("l1", 1);
    assert!(r.reads("l1", 1).expect_err("damaged").contains("block 1 of state 2"));
    let ask = r.promote("l1");
    let told = r.told("l1", ask);
    for word in ["block 1 is damaged", "--plan", "fetched it again", "--lose-damaged-blocks"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(r.opened("l1").primary.is_none());
    // Its parent heals it.
    r.pass(5_000);
    assert_eq!(r.info("l1").damage, None);
    assert_eq!(r.reads("l1", 1), Ok(1));
    let ask = r.promote("l1");
    assert!(r.told("l1", ask).contains("fresh: true"), "{}", r.told("l1", ask));
    assert_eq!(r.info("l1").took_damage, None);
}

#[test]
fn an_operator_may_give_damaged_blocks_up_and_that_is_remembered() {
    let mut r = two();
    r.rot("l1", 1);
    r.reads("l1", 1).expect_err("damaged");
    let told = r.promote_at_any_price("l1");
    assert!(told.contains("fresh: true") && told.contains("block 1 is damaged"), "{told}");
    let loud = |n: &&String| n.contains("took over with damage") && n.contains("block 1");
    assert_eq!(r.nodes["l1"].notes.iter().filter(loud).count(), 1, "{:?}", r.nodes["l1"].notes);
    assert_eq!(r.client_reads("l1", 1), Ok(1 ^ 4), "what the disk holds");
    r.restart("l1", "g1", &[]);
    r.pass(100);
    let what = Some("block 1 is damaged, and not fetched again yet".to_owned());
    assert_eq!(r.info("l1").took_damage, what);
}

#[test]
fn damage_that_nobody_noticed_is_still_told_by_the_table_after_a_promotion() {
    let mut r = two();
    r.rot("l1", 1);
    let ask = r.promote("l1");
    assert!(r.told("l1", ask).contains("fresh: true"), "{}", r.told("l1", ask));
    r.is_open("l1");
    assert_eq!(r.client_reads("l1", 2), Ok(2));
    r.client_reads("l1", 1).expect_err("damaged");
    // What is written to a part of it would make the rest the client's.
    let c = r.client("l1");
    c.write(BLOCK + 512, &[7; 512]).expect_err("damaged");
    c.touch(BLOCK, 1).expect_err("damaged");
    c.write(2 * BLOCK + 512, &[7; 512]).expect("of a whole block");
    r.pass(2_000);
    let info = r.info("l1");
    assert_eq!(info.damage.as_deref(), Some("block 1 is damaged"));
    let named = |n: &&String| n.contains("block 1 are not those") && n.contains("in full");
    assert!(r.nodes["l1"].notes.iter().any(|n| named(&n)), "{:?}", r.nodes["l1"].notes);
    // Nor does a reader of the restart point get it.
    let states = r.opened("l1").states.clone().expect("states");
    let pin = states.board().pin_kept(SetNumber(2)).expect("the restart point");
    let mut b = [0; 4096];
    states.read(&pin, BLOCK, &mut b).expect_err("damaged");
    // Written in full it is whole; the restart point does not hold what had rotted.
    c.write(BLOCK, &[9; 4096]).expect("written");
    assert_eq!(r.client_reads("l1", 1), Ok(9));
    r.pass(2_000);
    assert_eq!(r.info("l1").damage, None);
    states.read(&pin, BLOCK, &mut b).expect_err("damaged");
    states.read(&pin, 2 * BLOCK, &mut b).expect("whole");
    assert_eq!(b, [2; 4096]);
}

#[test]
fn a_writer_holds_what_it_took_over_against_the_table_after_a_restart_as_well() {
    let mut r = two();
    r.promote("l1");
    r.pass(1_000);
    r.rot("l1", 1);
    // What it was writing to at a crash would count as changed, whatever the disk holds: nothing.
    r.restart("l1", "g1", &[]);
    r.pass(2_000);
    assert_eq!(r.client_reads("l1", 2), Ok(2));
    r.client_reads("l1", 1).expect_err("damaged");
    // Nobody has another copy: an operator takes what is there.
    let told = r.promote_at_any_price("l1");
    assert!(told.contains("Promoted"), "{told}");
    r.pass(2_000);
    assert_eq!(r.client_reads("l1", 1), Ok(1 ^ 4));
    assert_eq!(r.info("l1").took_damage.as_deref(), Some("block 1 is damaged"));
}
