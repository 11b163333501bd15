//! Outside clients.

use crate::rig::{MIB, Rig, pattern, run, tool};
use serde_json::Value;

fn qemu_io(rig: &Rig, uri: &str, commands: &[&str]) {
    let Some(mut c) = tool("qemu-io", "qemu-utils") else { return };
    c.args(["-f", "raw", "--discard=unmap"]);
    for command in commands {
        c.args(["-c", command]);
    }
    let out = run(c.arg(uri));
    assert!(!out.contains("failed") && !out.contains("rror"), "{out}");
    assert_eq!(rig.count("protocol_errors"), 0);
}

#[test]
fn qemu_io_patterns() {
    let rig = Rig::file(64 * MIB);
    for (uri, fill) in [(rig.unix_uri("disk"), "0x55"), (rig.tcp_uri(""), "0x66")] {
        let commands = [
            format!("write -P {fill} 0 40M"),
            format!("write -P {fill} -f 41M 4k"),
            format!("write -P {fill} 511 513"),
            format!("read -P {fill} 0 40M"),
            format!("aio_write -P {fill} 50M 1M"),
            format!("aio_write -P {fill} 51M 1M"),
            "aio_flush".into(),
            format!("read -P {fill} 50M 2M"),
            "write -z 1M 2M".into(),
            "write -z -u 5M 2M".into(),
            "write -z -n 9M 64k".into(),
            "discard 12M 1M".into(),
            "read -P 0 1M 2M".into(),
            "read -P 0 5M 2M".into(),
            "read -P 0 12M 1M".into(),
            format!("read -P {fill} 3M 2M"),
            "flush".into(),
        ];
        qemu_io(&rig, &uri, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let content = rig.content();
    assert!(content[13 << 20..40 << 20].iter().all(|b| *b == 0x66));
    assert!(content[12 << 20..13 << 20].iter().all(|b| *b == 0));
    assert!(rig.count("fua") > 0 || tool("qemu-io", "qemu-utils").is_none());
}

#[test]
fn qemu_img_maps_compares_and_converts() {
    let rig = Rig::file(32 * MIB);
    rig.client().write(4 * MIB, &pattern(1, 3 << 20), true).unwrap();
    let (uri, path) = (rig.unix_uri("disk"), rig.path());
    let Some(mut map) = tool("qemu-img", "qemu-utils") else { return };
    let out = run(map.args(["map", "--output=json", "-f", "raw"]).arg(&uri));
    let map: Value = serde_json::from_str(&out).unwrap();
    let runs: Vec<(u64, u64, bool)> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["start"].as_u64().unwrap(), r["length"].as_u64().unwrap(), r["zero"] == true))
        .collect();
    let expected = [(0, 4 * MIB, true), (4 * MIB, 3 * MIB, false), (7 * MIB, 25 * MIB, true)];
    assert_eq!(runs, expected);

    let img = || tool("qemu-img", "qemu-utils").unwrap();
    run(img().args(["compare", "-f", "raw", "-F", "raw"]).arg(&uri).arg(&path));
    let copy = rig.dir.path().join("copy.qcow2");
    run(img().args(["convert", "-f", "raw", "-O", "qcow2"]).arg(rig.tcp_uri("disk")).arg(&copy));
    run(img().args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&copy).arg(&uri));
    // and back, over something else
    rig.client().write(0, &pattern(2, 32 << 20), false).unwrap();
    run(img().args(["convert", "-n", "-f", "qcow2", "-O", "raw"]).arg(&copy).arg(&uri));
    run(img().args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&copy).arg(&path));
    assert_eq!(rig.count("protocol_errors"), 0);
}

#[test]
fn nbdinfo_lists_and_describes() {
    let rig = Rig::file(8 * MIB);
    rig.client().write(MIB, &pattern(3, 1 << 20), true).unwrap();
    let info = || tool("nbdinfo", "libnbd-bin");
    let Some(mut list) = info() else { return };
    let uri = rig.unix_uri("disk");
    let out = run(list.args(["--list", "--json"]).arg(rig.unix_uri("")));
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["protocol"], "newstyle-fixed");
    let export = &json["exports"][0];
    assert_eq!(export["export-name"], "disk");
    assert_eq!(export["export-size"], 8 * MIB);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["contexts"][0], "base:allocation");
    for can in ["cache", "df", "fast-zero", "flush", "fua", "multi-conn", "trim", "write", "zero"] {
        run(info().unwrap().args(["--can", can]).arg(&uri));
    }
    for is in ["rotational", "tls"] {
        assert!(!info().unwrap().args(["--is", is]).arg(&uri).status().unwrap().success());
    }
    let out = run(info().unwrap().args(["--map", "--json"]).arg(rig.tcp_uri("disk")));
    let map: Value = serde_json::from_str(&out).unwrap();
    let kinds: Vec<_> = map.as_array().unwrap().iter().map(|e| e["type"].as_u64()).collect();
    assert_eq!(kinds, [Some(3), Some(0), Some(3)]);
    let refused = info().unwrap().arg(rig.unix_uri("nope")).output().unwrap();
    assert!(!refused.status.success());
}

#[test]
fn nbdcopy_both_ways() {
    let rig = Rig::file(96 * MIB);
    let source = rig.dir.path().join("source.raw");
    let mut data = pattern(4, 96 << 20);
    data[10 << 20..40 << 20].fill(0);
    std::fs::write(&source, &data).unwrap();
    let copy = || tool("nbdcopy", "libnbd-bin");
    let Some(mut to) = copy() else { return };
    run(to
        .args(["--flush", "--connections=4", "--requests=64"])
        .arg(&source)
        .arg(rig.unix_uri("")));
    assert!(rig.content() == data);
    let back = rig.dir.path().join("back.raw");
    for uri in [rig.unix_uri("disk"), rig.tcp_uri("disk")] {
        std::fs::File::create(&back).unwrap();
        run(copy().unwrap().args(["--request-size=1048576"]).arg(uri).arg(&back));
        assert!(std::fs::read(&back).unwrap() == data);
    }
    assert!(rig.count("reads_overlapped") > 0);
    assert_eq!(rig.count("errors") + rig.count("protocol_errors"), 0);
}

/// Every refusal has its exact error, with and without structured replies, and the connection
/// stays usable.
const ERRORS: &str = r#"
import errno, nbd, sys
uri, ro = sys.argv[1], sys.argv[2] == "ro"
for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.set_strict_mode(0)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    size = h.get_size()
    def fails(want, f, *a):
        try:
            f(*a)
        except nbd.Error as e:
            assert e.errnum == want, (a, e.string)
            assert len(h.pread(512, 0)) == 512
            return
        raise AssertionError((want, f, a))
    past = errno.EPERM if ro else errno.ENOSPC
    bad = errno.EINVAL
    fails(bad, h.pread, 1, size)
    fails(bad, h.pread, 1024, size - 512)
    fails(bad, h.pread, 512, 2**63 - 1)
    fails(past, h.pwrite, b"x" * 1024, size - 512)
    fails(past, h.pwrite, b"x" * 1048576, 2**63 - 4096)
    fails(past, h.trim, 1024, size - 512)
    fails(past, h.zero, 1024, size - 512)
    fails(bad, h.cache, 1024, size - 512)
    fails(bad, h.pread, 512, 0, nbd.CMD_FLAG_REQ_ONE)
    fails(bad, h.pwrite, b"x" * 512, 0, nbd.CMD_FLAG_NO_HOLE)
    fails(bad, h.zero, 512, 0, nbd.CMD_FLAG_DF)
    fails(bad, h.flush, nbd.CMD_FLAG_FAST_ZERO)
    fails(bad, h.pread, 512, 0, 1 << 9)
    if structured:
        fails(bad, h.block_status, 1024, size - 512, lambda *a: 0)
        seen = []
        h.pread_structured(1 << 20, 0, lambda b, o, s, e: seen.append((o, s)) or 0, nbd.CMD_FLAG_DF)
        assert len(seen) == 1, seen
    else:
        fails(bad, h.pread, 512, 0, nbd.CMD_FLAG_DF)
    if ro:
        assert h.is_read_only()
        fails(errno.EPERM, h.pwrite, b"x" * 512, 0)
        fails(errno.EPERM, h.zero, 512, 0)
        fails(errno.EPERM, h.trim, 512, 0)
    else:
        h.pwrite(b"y" * 512, 4096, nbd.CMD_FLAG_FUA)
        h.zero(512, 4096, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
        assert h.pread(512, 4096) == bytearray(512)
        h.trim(4096, 0, nbd.CMD_FLAG_FUA)
        h.flush()
    h.shutdown()
print("done")
"#;

#[test]
fn libnbd_sees_exact_errors() {
    for read_only in [false, true] {
        let rig = Rig::file_with(4 * MIB, read_only, Default::default());
        // nbdsh comes with the bindings this script imports
        if tool("nbdsh", "python3-libnbd").is_none() {
            return;
        }
        let Some(mut python) = tool("python3", "python3-libnbd") else { return };
        let script = rig.dir.path().join("errors.py");
        std::fs::write(&script, ERRORS).unwrap();
        let mode = if read_only { "ro" } else { "rw" };
        let out = run(python.arg(&script).arg(rig.unix_uri("disk")).arg(mode));
        assert_eq!(out.trim(), "done");
        assert_eq!(rig.count("protocol_errors"), 0);
    }
}

#[test]
fn nbdsh_reads_what_it_wrote() {
    let rig = Rig::file(4 * MIB);
    let Some(mut nbdsh) = tool("nbdsh", "python3-libnbd") else { return };
    let code = "h.pwrite(b'z'*100000, 12345)\nassert h.pread(100000, 12345) == b'z'*100000\n\
                print(h.get_size())";
    let out = run(nbdsh.arg("-u").arg(rig.tcp_uri("disk")).args(["-c", code]));
    assert_eq!(out.trim(), (4 * MIB).to_string());
}

#[test]
fn fio_verifies() {
    let rig = Rig::file(64 * MIB);
    for (rw, bs, uri) in [
        ("randwrite", "4k-4k", rig.unix_uri("disk")),
        ("randwrite", "4k-64k", rig.unix_uri("disk")),
        ("write", "1m-1m", rig.tcp_uri("disk")),
    ] {
        let Some(mut fio) = tool("fio", "fio") else { return };
        fio.current_dir(rig.dir.path());
        fio.args(["--name=v", "--ioengine=nbd", "--iodepth=16", "--size=64m", "--verify_fatal=1"]);
        fio.args(["--verify=crc32c", "--verify_backlog=512", "--fsync=64"]);
        fio.arg(format!("--bsrange={bs}"));
        let out = run(fio.arg(format!("--uri={uri}")).arg(format!("--rw={rw}")));
        assert!(out.contains("err= 0"), "{out}");
    }
    assert_eq!(rig.count("errors") + rig.count("protocol_errors"), 0);
}
