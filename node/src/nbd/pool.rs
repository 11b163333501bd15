//! The threads for requests that may block: bounded in number and in queue.
//!
//! A volume whose writes are held (a change of its primary, a child that must confirm) keeps every
//! worker that it has for seconds. So that it does not hold up the others, a volume gets one more
//! worker only while more are idle than it has: one alone has half of them, and the next still
//! finds some, however many are held.

use super::limits::STACK;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a worker runs.
pub(crate) trait Job: Send {
    /// Whose it is, and whether it changes something: jobs of one number may wait for each other,
    /// others do not wait for them.
    fn owner(&self) -> usize;

    fn run(self);
}

struct State<J> {
    queue: VecDeque<J>,
    idle: usize,
    /// How many workers each owner has, where it has any.
    held: HashMap<usize, usize>,
    stop: bool,
}

impl<J: Job> State<J> {
    /// The first job whose owner may have a worker more; any, once the pool is to end.
    ///
    /// One that ends lets at most one begin: its own owner's need for idle workers falls by as much
    /// as the next takes, so that no other worker need be woken for it.
    fn take(&mut self) -> Option<(usize, J)> {
        let Self { queue, idle, held, stop } = self;
        let may = |job: &J| *stop || *idle > held.get(&job.owner()).copied().unwrap_or(0);
        let job = queue.iter().position(may).and_then(|at| queue.remove(at))?;
        let owner = job.owner();
        *idle -= 1;
        *held.entry(owner).or_insert(0) += 1;
        Some((owner, job))
    }

    fn give_back(&mut self, owner: usize) {
        self.idle += 1;
        if let Some(n) = self.held.get_mut(&owner) {
            *n -= 1;
            if *n == 0 {
                self.held.remove(&owner);
            }
        }
    }
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
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    idle: workers.max(1),
                    held: HashMap::new(),
                    stop: false,
                }),
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
        let mut state = self.state.lock();
        loop {
            if let Some((owner, job)) = state.take() {
                drop(state);
                // an export that panics ends its request, not the worker
                let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
                state = self.state.lock();
                state.give_back(owner);
            } else if state.stop {
                return;
            } else {
                self.work.wait(&mut state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::RwLock;
    use std::sync::mpsc::{SyncSender, sync_channel};

    struct Call {
        owner: usize,
        held: Arc<RwLock<()>>,
        done: SyncSender<usize>,
    }

    impl Job for Call {
        fn owner(&self) -> usize {
            self.owner
        }

        fn run(self) {
            drop(self.held.read());
            self.done.send(self.owner).expect("the test listens");
        }
    }

    #[test]
    fn volumes_that_are_held_leave_workers_to_the_others() {
        let pool = Pool::start(8, 64).expect("threads start");
        let (done, finished) = sync_channel(64);
        let submit = |owner, held: &Arc<RwLock<()>>| {
            let call = Call { owner, held: Arc::clone(held), done: done.clone() };
            assert!(pool.submit(call).is_ok(), "there is room in the queue");
        };
        let (first, second, free) = (Arc::default(), Arc::default(), Arc::default());
        let (hold_first, hold_second) = (RwLock::write(&first), RwLock::write(&second));
        for (owner, held) in [(1, &first), (2, &second)] {
            (0..12).for_each(|_| submit(owner, held));
        }
        for _ in 0..100 {
            submit(3, &free);
            assert_eq!(finished.recv(), Ok(3));
        }
        drop(hold_second);
        (0..12).for_each(|_| assert_eq!(finished.recv(), Ok(2)));
        drop(hold_first);
        (0..10).for_each(|_| assert_eq!(finished.recv(), Ok(1)));
        // What is queued when the pool ends is carried out, whoever's it is.
        let hold = free.write();
        (0..20).for_each(|_| submit(3, &free));
        pool.stop();
        drop(hold);
        pool.join();
        drop(done);
        assert_eq!(finished.iter().count(), 22);
    }
}
