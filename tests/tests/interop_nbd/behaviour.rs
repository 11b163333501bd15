//! What the server does with its own client and with exports that block, fail and panic.

use crate::rig::{MIB, Rig, TIMEOUT, eventually, pattern};
use node::nbd::proto::{Request, cmd};
use node::nbd::{
    Budget, Client, ClientError, Dialog, Errno, Export, ExportInfo, Extent, ReadError, Server,
    ServerConfig,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// An export in memory whose moods can be set.
#[derive(Default)]
pub(crate) struct Moody {
    data: Mutex<Vec<u8>>,
    /// Flushes and reads outside memory wait while this holds.
    pub(crate) closed: Mutex<bool>,
    pub(crate) opened: Condvar,
    pub(crate) cold: AtomicBool,
    pub(crate) slow_writes: AtomicBool,
    /// Reads that touch this offset or more fail.
    fail_from: Mutex<Option<u64>>,
    panics: AtomicBool,
    waiting: AtomicU32,
}

impl Moody {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { data: Mutex::new(vec![0; size]), ..Self::default() })
    }

    fn gate(&self) {
        self.waiting.fetch_add(1, SeqCst);
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    pub(crate) fn close_gate(&self) {
        *self.closed.lock().unwrap() = true;
    }

    pub(crate) fn open_gate(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn copy(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if self.fail_from.lock().unwrap().is_some_and(|f| offset + buf.len() as u64 > f) {
            return Err(Errno::Io);
        }
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.data.lock().unwrap()[start..start + buf.len()]);
        Ok(())
    }
}

impl Export for Moody {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            size: self.data.lock().unwrap().len() as u64,
            read_only: false,
            block_size: 4096,
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: false,
            can_cache: false,
            cheap_status: false,
            description: String::new(),
        }
    }
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.cold.load(SeqCst) {
            return Err(ReadError::WouldBlock);
        }
        self.copy(offset, buf).map_err(ReadError::Failed)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.gate();
        self.copy(offset, buf)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).unwrap();
        self.data.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn write_might_block(&self) -> bool {
        self.slow_writes.load(SeqCst)
    }
    fn flush(&self) -> Result<(), Errno> {
        assert!(!self.panics.load(SeqCst), "a mood");
        self.gate();
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::NoSpc)
    }
    fn zero(&self, offset: u64, len: u64, _: bool, _: bool) -> Result<(), Errno> {
        self.write(offset, &vec![0; usize::try_from(len).unwrap()])
    }
    fn block_status(&self, _: u64, len: u64, _: usize) -> Result<Vec<Extent>, Errno> {
        Ok(vec![Extent { len, hole: false, zero: false }])
    }
}

fn remote(result: Result<(), ClientError>) -> Errno {
    match result {
        Err(ClientError::Remote(e)) => e,
        other => panic!("{other:?}"),
    }
}

fn config() -> ServerConfig {
    ServerConfig::default()
}

#[test]
fn own_client_round_trip() {
    let starved = ServerConfig { budget_bytes: 0, ..config() };
    for (config, structured) in
        [(config(), true), (config(), false), (starved.clone(), true), (starved, false)]
    {
        let rig = Rig::file_with(160 * MIB, false, config);
        let mut dialog = Dialog::connect_tcp(rig.addr, TIMEOUT).unwrap();
        assert_eq!(dialog.list().unwrap()[0].name, "disk");
        assert_eq!(dialog.info("disk").unwrap().block_sizes, Some([1, 4096, 64 << 20]));
        match dialog.info("x") {
            Err(ClientError::Refused { text, .. }) => {
                assert_eq!(text, "no export \"x\" here; exports are: disk");
            }
            other => panic!("{other:?}"),
        }
        let mut c = dialog.go("disk", structured).unwrap();
        assert_eq!(c.size(), 160 * MIB);
        let mut model = vec![0u8; 160 << 20];
        let lens = [1, 511, 4096, 65535, 65536, 131_044, 262_116, 262_117, 1 << 20, 64 << 20];
        for (i, len) in (1u64..).zip(lens) {
            let at = i * 7 * MIB + i * 13;
            let data = pattern(i, len);
            c.write(at, &data, i % 3 == 0).unwrap();
            let start = usize::try_from(at).unwrap();
            model[start..start + len].copy_from_slice(&data);
            let mut back = vec![0; len];
            c.read(at, &mut back).unwrap();
            assert!(back == data, "{len} bytes at {at}");
        }
        c.zero(80 * MIB + 5, 3 << 20, false).unwrap();
        c.zero(90 * MIB + 5, 3 << 20, true).unwrap();
        model[(80 << 20) + 5..(83 << 20) + 5].fill(0);
        model[(90 << 20) + 5..(93 << 20) + 5].fill(0);
        c.flush().unwrap();
        c.cache(0, 1 << 20).unwrap();
        let mut back = vec![0; 64 << 20];
        c.read(64 * MIB, &mut back).unwrap();
        assert!(back == model[64 << 20..128 << 20]);
        let mut whole = Vec::new();
        c.read_all(8, |at, piece| {
            assert_eq!(at, whole.len() as u64);
            whole.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert!(whole == model && rig.content() == model);
        if structured {
            let extents = c.block_status(0, 160 << 20).unwrap();
            assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), 160 * MIB);
            assert!(extents[0].zero && extents.iter().any(|e| !e.zero));
            assert!(rig.count("hole_chunks") > 0);
        }
        c.disconnect().unwrap();
        eventually("closed", || rig.server.connections() == 0);
        assert_eq!(rig.server.budget().used(), 0);
        assert_eq!(rig.count("errors") + rig.count("protocol_errors"), 0);
    }
}

#[test]
fn a_flush_that_waits_holds_up_nobody() {
    let moody = Moody::new(1 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    moody.close_gate();
    let (mut h, raw) = pipelined(&rig);
    let flush = Request { flags: 0, command: cmd::FLUSH, cookie: 1, offset: 0, len: 0 };
    let read = Request { flags: 0, command: cmd::READ, cookie: 2, offset: 0, len: 4 };
    h(&[flush.encode(), read.encode()].concat());
    // the later reply comes first
    assert_eq!(raw(20)[8..16], [0, 0, 0, 0, 0, 0, 0, 2]);
    let mut other = rig.client();
    other.write(0, b"on we go", false).unwrap();
    moody.open_gate();
    assert_eq!(raw(16)[8..16], [0, 0, 0, 0, 0, 0, 0, 1]);
}

/// A connection in transmission without structured replies: send bytes, receive bytes.
fn pipelined(rig: &Rig) -> (impl FnMut(&[u8]) + use<>, impl Fn(usize) -> Vec<u8> + use<>) {
    use std::io::{Read, Write};
    let mut s = std::os::unix::net::UnixStream::connect(&rig.sock).unwrap();
    s.set_read_timeout(Some(TIMEOUT)).unwrap();
    s.read_exact(&mut [0; 18]).unwrap();
    s.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk").unwrap();
    s.read_exact(&mut [0; 10]).unwrap();
    let mut sender = s.try_clone().unwrap();
    let receive = move |n| {
        let mut b = vec![0; n];
        (&s).read_exact(&mut b).unwrap();
        b
    };
    (move |bytes: &[u8]| sender.write_all(bytes).unwrap(), receive)
}

#[test]
fn cold_reads_and_slow_writes_go_through_the_pool() {
    let moody = Moody::new(8 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    moody.cold.store(true, SeqCst);
    moody.slow_writes.store(true, SeqCst);
    let mut c = rig.client();
    let data = pattern(9, 8 << 20);
    for (i, part) in (0u64..).zip(data.chunks(64 << 10)) {
        c.write(i << 16, part, i % 2 == 0).unwrap();
    }
    let mut whole = Vec::new();
    c.read_all(16, |_, piece| {
        whole.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert!(whole == data);
    let mut small = [0; 100];
    c.read(5000, &mut small).unwrap();
    assert_eq!(small, data[5000..5100]);
    assert!(rig.count("reads_deferred") + rig.count("reads_overlapped") >= 9);
    assert_eq!(rig.count("bytes_written"), 8 * MIB);
    assert_eq!(remote(c.trim(0, 1)), Errno::NoSpc);
}

#[test]
fn a_full_pool_and_a_spent_budget_fall_back() {
    let tight = ServerConfig { workers: 1, queue: 1, budget_bytes: 8192, ..config() };
    let moody = Moody::new(4 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, tight);
    moody.cold.store(true, SeqCst);
    let (mut send, receive) = pipelined(&rig);
    let mut requests = Vec::new();
    for cookie in 0..200 {
        let len = if cookie % 2 == 0 { 4096 } else { 0 };
        let command = if len > 0 { cmd::READ } else { cmd::FLUSH };
        requests.extend(Request { flags: 0, command, cookie, offset: 0, len }.encode());
    }
    send(&requests);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let header = receive(16);
        assert_eq!(header[4..8], [0; 4]);
        let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
        if cookie % 2 == 0 {
            receive(4096);
        }
        assert!(seen.insert(cookie));
    }
    assert!(rig.count("ran_inline") > 0);
    // Given back once an answer is sent, which its reader may hear of first.
    eventually("the budget is given back", || rig.server.budget().used() == 0);
}

#[test]
fn a_read_that_fails_half_way() {
    let moody = Moody::new(8 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    *moody.fail_from.lock().unwrap() = Some(5 << 20);
    let mut buf = vec![0; 8 << 20];
    // structured: an error, and the connection goes on
    let mut c = rig.client();
    for flags in [0, cmd::FLAG_DF] {
        let r = Request { flags, command: cmd::READ, cookie: 0, offset: 0, len: 8 << 20 };
        assert_eq!(remote(c.raw(r, &[])), Errno::Io);
        c.read(0, &mut buf[..4096]).unwrap();
    }
    // simple: refused when nothing was sent, closed when something was
    let mut c = Dialog::connect_tcp(rig.addr, TIMEOUT).unwrap().go("disk", false).unwrap();
    assert_eq!(remote(c.read(5 * MIB, &mut buf[..2 << 20])), Errno::Io);
    c.read(0, &mut buf[..4096]).unwrap();
    assert!(matches!(c.read(0, &mut buf), Err(ClientError::Io(_))));
    rig.client().read(0, &mut buf[..4096]).unwrap();
}

#[test]
fn a_panicking_export_answers_eio() {
    let moody = Moody::new(1 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, ServerConfig { workers: 1, ..config() });
    moody.panics.store(true, SeqCst);
    let mut c = rig.client();
    assert_eq!(remote(c.flush()), Errno::Io);
    moody.panics.store(false, SeqCst);
    c.flush().unwrap();
}

#[test]
fn shutdown_finishes_what_was_received() {
    let moody = Moody::new(1 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    moody.close_gate();
    let mut busy = rig.client();
    let idle = rig.client();
    let flush = std::thread::spawn(move || busy.flush());
    eventually("flushing", || moody.waiting.load(SeqCst) == 1);
    let opener = {
        let moody = Arc::clone(&moody);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            moody.open_gate();
        })
    };
    assert!(rig.server.shutdown(TIMEOUT));
    flush.join().unwrap().unwrap();
    opener.join().unwrap();
    assert_eq!(rig.server.connections(), 0);
    assert!(Client::unix(&rig.sock, "disk", TIMEOUT).is_err());
    assert!(Client::tcp(rig.addr, "disk", TIMEOUT).is_err());
    assert!(!rig.sock.exists());
    drop((idle, rig));
    // nobody holds the export any more
    assert_eq!(Arc::strong_count(&moody), 1);
}

#[test]
fn shutdown_cuts_off_what_does_not_end() {
    let moody = Moody::new(1 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    moody.close_gate();
    let mut busy = rig.client();
    let flush = std::thread::spawn(move || busy.flush());
    eventually("flushing", || moody.waiting.load(SeqCst) == 1);
    assert!(!rig.server.shutdown(Duration::from_millis(100)));
    assert!(flush.join().unwrap().is_err());
    moody.open_gate();
    eventually("gone", || rig.server.connections() == 0);
}

#[test]
fn an_export_is_let_go_with_its_connection() {
    let moody = Moody::new(1 << 20);
    let rig = Rig::export(Arc::clone(&moody) as _, config());
    let before = Arc::strong_count(&moody);
    let clients: Vec<Client> = (0..5).map(|_| rig.client()).collect();
    assert_eq!(Arc::strong_count(&moody), before + 5);
    drop(clients);
    eventually("released", || Arc::strong_count(&moody) == before);
}

#[test]
fn listeners_that_cannot_be_had() {
    let rig = Rig::file(MIB);
    let exports = || node::nbd::FixedExports::new(Vec::new());
    let taken = ServerConfig { tcp: vec![rig.addr], ..config() };
    let error = Server::start(&taken, exports()).err().unwrap();
    assert!(error.to_string().contains(&rig.addr.to_string()), "{error}");
    let alive = ServerConfig { unix: vec![rig.sock.clone()], ..config() };
    assert!(Server::start(&alive, exports()).is_err());
    assert!(rig.client().read(0, &mut [0; 9]).is_ok());
    // a leftover of a server that died is replaced
    let dead = rig.dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let config = ServerConfig { unix: vec![dead], ..config() };
    let budget = Budget::new(1 << 20);
    let server = Server::start_with_budget(&config, exports(), Arc::clone(&budget)).unwrap();
    assert!(Arc::ptr_eq(&server.budget(), &budget));
}
