//! Threads that answer what takes longer than a frame.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::Inner;
use super::run::lock;

/// A person looks at a few panels; what waits beyond these was asked long ago and is no longer shown.
const WAITING: usize = 64;

const THREADS: usize = 2;

type Job = Box<dyn FnOnce(Arc<Inner>) + Send>;

/// Jobs that wait, the newest first: what was asked last is what is on the screen.
#[derive(Default)]
pub(super) struct Pool {
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
}

impl Pool {
    pub(super) fn start(&self, store: &Weak<Inner>) {
        for _ in 0..THREADS {
            let (queue, store) = (self.queue.clone(), store.clone());
            std::thread::spawn(move || {
                while let Some(job) = next(&queue) {
                    let Some(store) = store.upgrade() else { return };
                    job(store);
                }
            });
        }
    }

    /// Jobs that are dropped for too many newer ones tell so by being dropped.
    pub(super) fn push(&self, job: Job) {
        let mut queue = lock(&self.queue.0);
        queue.jobs.push_front(job);
        let old = (queue.jobs.len() > WAITING).then(|| queue.jobs.pop_back());
        drop(queue);
        drop(old);
        self.queue.1.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue.0);
        queue.stop = true;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
        self.queue.1.notify_all();
    }
}

fn next(queue: &(Mutex<Queue>, Condvar)) -> Option<Job> {
    let mut guard = lock(&queue.0);
    loop {
        if guard.stop {
            return None;
        }
        if let Some(job) = guard.jobs.pop_front() {
            return Some(job);
        }
        guard = queue.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}
