//! The threads for requests that may block: bounded in number and in queue.

use super::limits::STACK;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a worker runs.
pub(crate) trait Job: Send {
    fn run(self);
}

struct State<J> {
    queue: VecDeque<J>,
    stop: bool,
}

struct Shared<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    capacity: usize,
}

pub(crate) struct Pool<J: Job + 'static> {
    shared: Arc<Shared<J>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl<J: Job + 'static> Pool<J> {
    pub(crate) fn start(workers: usize, capacity: usize) -> io::Result<Self> {
        let pool = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State { queue: VecDeque::new(), stop: false }),
                work: Condvar::new(),
                capacity,
            }),
            workers: Mutex::default(),
        };
        for _ in 0..workers.max(1) {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name("nbd-worker".into())
                .stack_size(STACK)
                .spawn(move || shared.work());
            match handle {
                Ok(handle) => pool.workers.lock().push(handle),
                Err(e) => {
                    pool.stop();
                    return Err(e);
                }
            }
        }
        Ok(pool)
    }

    /// Queues a job, or gives it back when the queue is full or stopped.
    pub(crate) fn submit(&self, job: J) -> Result<(), J> {
        let mut state = self.shared.state.lock();
        if state.stop || state.queue.len() >= self.shared.capacity {
            return Err(job);
        }
        state.queue.push_back(job);
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Lets the workers finish the queue and end. Does not wait for them.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.work.notify_all();
    }

    /// Waits for the workers. Call after [`Pool::stop`].
    pub(crate) fn join(&self) {
        for handle in std::mem::take(&mut *self.workers.lock()) {
            let _ = handle.join();
        }
    }
}

impl<J: Job> Shared<J> {
    fn work(&self) {
        loop {
            let job = {
                let mut state = self.state.lock();
                loop {
                    if let Some(job) = state.queue.pop_front() {
                        break job;
                    }
                    if state.stop {
                        return;
                    }
                    self.work.wait(&mut state);
                }
            };
            // an export that panics ends its request, not the worker
            let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
        }
    }
}
