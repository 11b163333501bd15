//! The server: listeners, the cap on connections, and the clean end.

use super::budget::Budget;
use super::conn::{self, Shared};
use super::deadline::Deadline;
use super::export::Exports;
use super::limits;
use super::metrics::{Metrics, add};
use super::pool::Pool;
use super::socket::{Listener, Socket};
use super::tls::Tls;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a server listens on and how much it may use.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// TCP addresses; port 0 picks one, see [`Server::tcp_addrs`].
    pub tcp: Vec<SocketAddr>,
    /// Unix socket paths, made with mode 0600; a dead leftover is replaced.
    pub unix: Vec<PathBuf>,
    /// Connections at once over all listeners.
    pub max_connections: usize,
    /// From accept to the end of option haggling.
    pub handshake_deadline: Duration,
    /// Threads for requests that may block.
    pub workers: usize,
    /// Requests that wait for such a thread.
    pub queue: usize,
    /// Memory for large and for waiting requests, see [`Budget`]. [`Server::start_with_budget`]
    /// takes one that exists instead.
    pub budget_bytes: usize,
    /// Times a connection looks for its next request before it sleeps; 0 is never.
    pub spin: u32,
    /// TLS on TCP connections; without it there is none.
    pub tls: Option<Tls>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            max_connections: limits::MAX_CONNECTIONS,
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            workers: limits::WORKERS,
            queue: limits::POOL_QUEUE,
            budget_bytes: limits::BUDGET,
            spin: limits::SPIN,
            tls: None,
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It came by TCP, from there, and has not got through to an export.
    Haggles(IpAddr),
    /// It came by a Unix socket, or has an export.
    Through,
    /// It was put out; its thread is about to end.
    Out,
}

struct Open {
    socket: Arc<Socket>,
    stage: Stage,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Open>,
}

impl Table {
    /// Whom somebody who comes from `from` puts out: those who say nothing push out one another,
    /// and nobody who is through.
    fn put_out(&self, from: IpAddr) -> Option<u64> {
        let haggling = || {
            self.open.iter().filter_map(|(id, o)| match o.stage {
                Stage::Haggles(from) => Some((*id, from)),
                _ => None,
            })
        };
        let mut same = haggling().filter(|(_, a)| *a == from).map(|(id, _)| id);
        let oldest_same = same.next();
        if oldest_same.is_some() && 1 + same.count() >= limits::MAX_HAGGLING_FROM_ONE {
            return oldest_same;
        }
        let (oldest, _) = haggling().next()?;
        (haggling().count() >= limits::MAX_HAGGLING).then_some(oldest)
    }

    fn through(&self) -> usize {
        self.open.values().filter(|o| o.stage == Stage::Through).count()
    }
}

struct Inner {
    shared: Shared,
    max_connections: usize,
    table: Mutex<Table>,
    ended: Condvar,
}

/// A running server. Dropping it without [`Server::shutdown`] stops it without patience.
pub struct Server {
    inner: Arc<Inner>,
    listeners: Vec<Arc<Listener>>,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Binds everything, or fails without leaving anything behind.
    pub fn start(config: &ServerConfig, exports: Arc<dyn Exports>) -> io::Result<Self> {
        Self::start_with_budget(config, exports, Budget::new(config.budget_bytes))
    }

    /// Like [`Server::start`], with a budget that others use as well.
    pub fn start_with_budget(
        config: &ServerConfig,
        exports: Arc<dyn Exports>,
        budget: Arc<Budget>,
    ) -> io::Result<Self> {
        let shared = Shared {
            exports,
            pool: Pool::start(config.workers, config.queue)?,
            budget,
            metrics: Arc::default(),
            handshake_deadline: config.handshake_deadline,
            stopping: AtomicBool::new(false),
            spin: config.spin,
            tls: config.tls.clone(),
        };
        let inner = Arc::new(Inner {
            shared,
            max_connections: config.max_connections,
            table: Mutex::default(),
            ended: Condvar::new(),
        });
        // from here on an early return drops the server, which takes everything down
        let mut server = Self { inner, listeners: Vec::new(), acceptors: Mutex::default() };
        for addr in &config.tcp {
            server.listeners.push(Arc::new(Listener::tcp(*addr).map_err(|e| named(addr, &e))?));
        }
        for path in &config.unix {
            let listener = Listener::unix(path).map_err(|e| named(path.display(), &e))?;
            server.listeners.push(Arc::new(listener));
        }
        for listener in &server.listeners {
            let (inner, listener) = (Arc::clone(&server.inner), Arc::clone(listener));
            let acceptor = std::thread::Builder::new()
                .name("nbd-accept".into())
                .stack_size(limits::STACK)
                .spawn(move || inner.accept(&listener))?;
            server.acceptors.lock().push(acceptor);
        }
        Ok(server)
    }

    /// The bound TCP addresses, in the order of the configuration.
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|l| l.tcp_addr()).collect()
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.inner.shared.metrics)
    }

    /// The memory budget.
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.inner.shared.budget)
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.inner.table.lock().open.len()
    }

    /// Stops accepting, finishes what was received, and closes. What is not done within
    /// `deadline` is cut off; `true` when nothing had to be and every thread has ended.
    /// May be called again.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        let deadline = Deadline::after(deadline);
        self.inner.shared.stopping.store(true, Ordering::SeqCst);
        self.listeners.iter().for_each(|l| l.close());
        for acceptor in std::mem::take(&mut *self.acceptors.lock()) {
            let _ = acceptor.join();
        }
        self.each_connection(Socket::stop_reading);
        let clean = self.wait(deadline);
        if !clean {
            self.each_connection(Socket::close);
            // only an export that hangs can hold a connection now
            self.wait(Deadline::after(Duration::from_millis(500)));
        }
        self.inner.shared.pool.stop();
        if self.connections() == 0 {
            self.inner.shared.pool.join();
        }
        clean
    }

    fn each_connection(&self, f: impl Fn(&Socket)) {
        self.inner.table.lock().open.values().for_each(|o| f(&o.socket));
    }

    fn wait(&self, deadline: Deadline) -> bool {
        let mut table = self.inner.table.lock();
        while !table.open.is_empty() {
            let Some(left) = deadline.left() else { return false };
            self.inner.ended.wait_for(&mut table, left);
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

fn named(what: impl std::fmt::Display, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot listen on {what}: {e}"))
}

impl Inner {
    fn accept(self: &Arc<Self>, listener: &Listener) {
        let metrics = &self.shared.metrics;
        loop {
            let accepted = listener.accept();
            if self.shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(socket) = accepted else {
                // out of descriptors, or a peer that left at once: the listener itself is well
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let socket = Arc::new(socket);
            let Some(place) = Place::take(self, &socket) else {
                add(&metrics.connections_refused, 1);
                continue;
            };
            add(&metrics.connections_opened, 1);
            let started = std::thread::Builder::new()
                .name("nbd-conn".into())
                .stack_size(limits::STACK)
                .spawn(move || conn::serve(socket, &place.inner.shared, || place.got_through()));
            if started.is_err() {
                // the place was dropped with the closure
                add(&metrics.connections_refused, 1);
            }
        }
    }
}

/// A connection's place in the table; left on drop, however its thread ends.
struct Place {
    inner: Arc<Inner>,
    id: u64,
}

impl Place {
    fn take(inner: &Arc<Inner>, socket: &Arc<Socket>) -> Option<Self> {
        let mut table = inner.table.lock();
        let stage = match socket.peer() {
            Some(from) => Stage::Haggles(from.ip().to_canonical()),
            None if table.through() >= inner.max_connections => return None,
            None => Stage::Through,
        };
        if let Stage::Haggles(from) = stage
            && let Some(o) = table.put_out(from).and_then(|id| table.open.get_mut(&id))
        {
            o.stage = Stage::Out;
            o.socket.close();
            add(&inner.shared.metrics.connections_refused, 1);
        }
        let id = table.next;
        table.next += 1;
        table.open.insert(id, Open { socket: Arc::clone(socket), stage });
        Some(Self { inner: Arc::clone(inner), id })
    }

    /// It opens an export; false if there are as many as there may be.
    fn got_through(&self) -> bool {
        let mut table = self.inner.table.lock();
        let through = table.through();
        let Some(o) = table.open.get_mut(&self.id) else { return false };
        match o.stage {
            Stage::Through => return true,
            Stage::Out => return false,
            Stage::Haggles(_) if through < self.inner.max_connections => {
                o.stage = Stage::Through;
                return true;
            }
            Stage::Haggles(_) => {}
        }
        add(&self.inner.shared.metrics.connections_refused, 1);
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        add(&self.inner.shared.metrics.connections_closed, 1);
        self.inner.table.lock().open.remove(&self.id);
        self.inner.ended.notify_all();
    }
}
