//! Peers that lie, stall, flood and leave. After each, the server serves as before
//! and has given everything back.

use crate::behaviour::Moody;
use crate::rig::{ALONE, MIB, Rig, TIMEOUT, eventually, pattern};
use node::nbd::proto::{Request, cmd};
use node::nbd::{Client, FileExport, FixedExports, ServerConfig};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Threads and descriptors of this process.
fn held() -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

fn connect(rig: &Rig) -> TcpStream {
    let s = TcpStream::connect(rig.addr).unwrap();
    s.set_read_timeout(Some(TIMEOUT)).unwrap();
    s.set_write_timeout(Some(TIMEOUT)).unwrap();
    s
}

/// Sends what can be sent and reads to the end, or until the server says no more.
fn say(rig: &Rig, bytes: &[u8]) {
    let mut s = connect(rig);
    let _ = s.write_all(bytes);
    let _ = s.shutdown(std::net::Shutdown::Write);
    let _ = s.read_to_end(&mut Vec::new());
}

fn entered(rig: &Rig) -> TcpStream {
    let mut s = connect(rig);
    s.read_exact(&mut [0; 18]).unwrap();
    s.write_all(&enter()).unwrap();
    s.read_exact(&mut [0; 10]).unwrap();
    s
}

fn enter() -> Vec<u8> {
    b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk".to_vec()
}

fn option(option: u32, len: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &option.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

fn request(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    Request { flags, command, cookie: 5, offset, len }.encode().to_vec()
}

fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let hello = |rest: &[u8]| [&b"\0\0\0\x03"[..], rest].concat();
    let with = |rest: &[u8]| [enter(), rest.to_vec()].concat();
    let whole = |o: u32, data: &[u8]| option(o, u32::try_from(data.len()).unwrap(), data);
    let many: Vec<u8> = (0..20_000u32).flat_map(|i| whole(i % 40 + 20, b"")).collect();
    let garbage = pattern(77, 300_000);
    let mut magic = request(cmd::READ, 0, 0, 512);
    magic[0] = 0;
    let all_commands: Vec<u8> = (8..600u16).flat_map(|c| request(c, 0, 0, 0)).collect();
    let all_flags: Vec<u8> =
        (0..16).flat_map(|f| (0..9).flat_map(move |c| request(c, 1 << f, 0, 0))).collect();
    vec![
        ("garbage", garbage.clone()),
        ("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("unknown client flags", b"\xff\xff\xff\xff".to_vec()),
        ("half an option", hello(b"IHAVEOPT\0\0")),
        ("a lying option length", hello(&option(7, u32::MAX, b"x"))),
        ("a long option cut short", hello(&option(7, 60_000, &garbage[..50_000]))),
        ("a name of NULs", hello(&whole(7, b"\0\0\0\x04\0\0\0\0\0\0"))),
        ("an EXPORT_NAME of NULs", hello(&whole(1, b"\0\0\0\0"))),
        ("a lying name length", hello(&whole(7, b"\xff\xff\xff\xffdisk\0\0"))),
        ("billions of queries", hello(&whole(10, b"\0\0\0\x04disk\xff\xff\xff\xff"))),
        ("twenty thousand options", hello(&many)),
        ("garbage in transmission", with(&garbage)),
        ("a bad magic", with(&magic)),
        ("half a request", with(&request(cmd::READ, 0, 0, 512)[..20])),
        ("4 GiB to read", with(&request(cmd::READ, 0, 0, u32::MAX))),
        ("4 GiB to write", with(&request(cmd::WRITE, 0, 0, u32::MAX))),
        ("an offset that wraps", with(&request(cmd::READ, 0, u64::MAX - 100, 512))),
        ("a write that wraps", with(&request(cmd::WRITE, 0, u64::MAX - 100, 512))),
        ("unknown commands", with(&all_commands)),
        ("unknown flags", with(&all_flags)),
        (
            "half a write",
            with(&[&request(cmd::WRITE, 0, 0, 1 << 20), &garbage[..100_000]].concat()),
        ),
        ("half a small write", with(&[&request(cmd::WRITE, 0, 0, 4096), &garbage[..100]].concat())),
        (
            "half a refused write",
            with(&[&request(cmd::WRITE, 0, 1 << 60, 1 << 20), &garbage[..100_000]].concat()),
        ),
        ("more after goodbye", with(&[request(cmd::DISC, 0, 0, 0), garbage].concat())),
    ]
}

/// One test, since it counts what this process holds.
#[test]
fn hostile_peers_leave_no_trace() {
    let _alone = ALONE.write().unwrap_or_else(|e| e.into_inner());
    let config = ServerConfig {
        max_connections: 40,
        handshake_deadline: Duration::from_millis(700),
        ..ServerConfig::default()
    };
    let rig = Rig::build(config, false, |dir| {
        let path = dir.join("disk.raw");
        std::fs::write(&path, pattern(1, 32 << 20)).unwrap();
        let disk = Arc::new(FileExport::open(&path, false).unwrap());
        FixedExports::one("disk", disk)
    });
    let mut beside = rig.client();
    let mut served = 0u64;
    let base = held();
    let mut settled = |what: &str| {
        eventually(&format!("{what}: connections end"), || rig.server.connections() == 1);
        eventually(&format!("{what}: threads and descriptors are back"), || held() == base);
        assert_eq!(rig.server.budget().used(), 0, "{what}");
        served += 1;
        let mut mark = [0; 8];
        beside.write(31 * MIB, &served.to_be_bytes(), false).unwrap();
        beside.read(31 * MIB, &mut mark).unwrap();
        assert_eq!(mark, served.to_be_bytes(), "{what}");
        rig.client().disconnect().unwrap();
        eventually(what, || rig.server.connections() == 1);
    };
    for (what, bytes) in cases() {
        say(&rig, &bytes);
        settled(what);
    }

    refused_requests_keep_the_connection(&rig);
    settled("refused requests");

    for bytes in 1..200u64 {
        // left in the middle of a large write or read, at once and with a reset
        let mut s = entered(&rig);
        let command = if bytes % 2 == 0 { cmd::READ } else { cmd::WRITE };
        let _ = s.write_all(&request(command, 0, 0, 24 << 20));
    }
    settled("leaving in the middle");

    never_reads(&rig);
    settled("pipelining reads and never reading");

    over_the_cap(&rig);
    settled("idle connections");

    let mut slow = connect(&rig);
    for byte in [0u8, 0, 0, 3].into_iter().cycle() {
        std::thread::sleep(Duration::from_millis(50));
        if slow.write_all(&[byte]).is_err() {
            break;
        }
    }
    drop(slow);
    settled("one byte at a time");
    assert!(rig.count("handshakes_failed") > 5 && rig.count("protocol_errors") >= 2);
    assert_eq!(rig.count("connections_opened"), rig.count("connections_closed") + 1);
}

fn refused_requests_keep_the_connection(rig: &Rig) {
    let mut s = entered(rig);
    let mut reply = |message: &[u8]| {
        s.write_all(message).unwrap();
        let mut b = [0; 16];
        s.read_exact(&mut b).unwrap();
        u32::from_be_bytes(b[4..8].try_into().unwrap())
    };
    let long = vec![b'x'; 3 << 20];
    let past = [request(cmd::WRITE, 0, 31 * MIB, 3 << 20), long.clone()].concat();
    assert_eq!(reply(&past), 28);
    let flags = [request(cmd::WRITE, 1 << 7, 0, 3 << 20), long].concat();
    assert_eq!(reply(&flags), 22);
    assert_eq!(reply(&request(99, 0, 0, 0)), 22);
    assert_eq!(reply(&request(cmd::READ, 0, 0, u32::MAX)), 22);
    assert_eq!(reply(&request(cmd::FLUSH, 0, 0, 1)), 22);
    assert_eq!(reply(&request(cmd::BLOCK_STATUS, 0, 0, 512)), 22);
    assert_eq!(reply(&request(cmd::READ, cmd::FLAG_DF, 0, 512)), 22);
    assert_eq!(reply(&request(cmd::FLUSH, 0, 0, 0)), 0);
}

/// Many clients ask for far more than the sockets hold, read nothing, and others go on (the case
/// that ends nbdkit 1.32.5); then they leave.
fn never_reads(rig: &Rig) {
    let mut stuck = Vec::new();
    for i in 0..12u32 {
        let mut s = entered(rig);
        s.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let len = [4096, 65536, 1 << 20, 30 << 20][i as usize % 4];
        for _ in 0..200 {
            if s.write_all(&request(cmd::READ, 0, 0, len)).is_err() {
                break;
            }
        }
        stuck.push(s);
    }
    let mut c = rig.client();
    for i in 0..200u64 {
        c.write(i * 4096, &pattern(i, 4096), i % 50 == 0).unwrap();
    }
    c.disconnect().unwrap();
    drop(stuck);
}

fn over_the_cap(rig: &Rig) {
    let refused = || rig.count("connections_refused");
    let open = || Client::tcp(rig.addr, "disk", TIMEOUT).unwrap();
    let before = refused();
    // Those that say nothing push out one another, and nobody else.
    let idle: Vec<TcpStream> = (0..60).map(|_| connect(rig)).collect();
    eventually("put out", || refused() >= before + 12);
    open().disconnect().unwrap();
    // They are closed at the deadline.
    eventually("room again", || rig.server.connections() == 1);
    drop(idle);
    // The client beside holds one of forty places.
    let mut all: Vec<Client> = (0..39).map(|_| open()).collect();
    let before = refused();
    let mut one_more = open();
    assert!(one_more.read(0, &mut [0; 512]).is_err());
    assert_eq!(refused(), before + 1);
    all.pop().unwrap().disconnect().unwrap();
    eventually("a place", || rig.server.connections() == 39);
    open().disconnect().unwrap();
}

/// Cold reads of clients that never take their replies hold memory, but neither workers nor
/// anybody else.
#[test]
fn unread_replies_of_cold_reads_stall_only_their_client() {
    let moody = Moody::new(4 << 20);
    let config =
        ServerConfig { workers: 2, budget_bytes: 4 << 20, queue: 64, ..ServerConfig::default() };
    let rig = Rig::export(Arc::clone(&moody) as _, config);
    moody.cold.store(true, SeqCst);
    let mut stuck = Vec::new();
    for _ in 0..6 {
        let mut s = entered(&rig);
        s.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        for _ in 0..100 {
            let _ = s.write_all(&request(cmd::READ, 0, 0, 1 << 20));
        }
        stuck.push(s);
    }
    let mut c = rig.client();
    let mut buf = vec![0; 1 << 20];
    for _ in 0..50 {
        c.read(0, &mut buf).unwrap();
        c.flush().unwrap();
    }
    assert!(rig.server.budget().used() <= 4 << 20);
    drop(stuck);
    eventually("given back", || rig.server.connections() == 1 && rig.server.budget().used() == 0);
    assert!(rig.server.shutdown(TIMEOUT));
}
