//! A file to every member of a group, one of them killed in the middle (CB-05).

use std::process::Command;
use std::time::Duration;

use tests::rig::{Plan, Tree, program, said, wait_for};

/// Bytes of the file: enough for the kill to fall into its way.
const LEN: usize = (200 << 20) + 1234;
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_file_reaches_every_member_though_one_is_killed() {
    let plan = Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1", "l2"]), ("f2", &["l3"])]);
    let tree = Tree::start(plan.volume("vol", 16));
    tree.expect(" WARN ");
    let file = tree.dir().join("file.bin");
    let mut x = 88_172_645_463_325_252_u64;
    let mut data = vec![0u8; LEN];
    for b in data.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let n = b.len();
        b.copy_from_slice(&x.to_le_bytes()[..n]);
    }
    std::fs::write(&file, &data).unwrap();
    let shown = std::thread::scope(|s| {
        let sending = s.spawn(|| {
            said(
                Command::new(program("rcpfiletest"))
                    .arg("--dir")
                    .arg(tree.folder("p"))
                    .arg(format!("data={}", file.display()))
                    .args(["group=g1", "--wait", "90"]),
            )
        });
        wait_for("the file is on its way to l1", LONG, || {
            let s = tree.status("l1").map_err(|e| e.to_string())?;
            let part = s.volumes.iter().any(|v| {
                v.label.starts_with("file-") && (v.save_used > 0 || v.state.starts_with("seeding"))
            });
            part.then_some(()).ok_or_else(|| "nothing of it has come yet".to_owned())
        });
        tree.kill("l1");
        std::thread::sleep(Duration::from_millis(500));
        tree.up("l1");
        sending.join().unwrap()
    });
    let shown = shown.expect("every member has the file");
    assert!(shown.contains("5 of 5 members have the file"), "{shown}");
    // It goes as it came.
    wait_for("the file's volume is gone everywhere", LONG, || {
        for n in tree.names() {
            let s = tree.status(&n).map_err(|e| e.to_string())?;
            if let Some(v) = s.volumes.iter().find(|v| v.label.starts_with("file-")) {
                return Err(format!("{n} still has {}", v.label));
            }
        }
        Ok(())
    });
    tree.quiet();
}
