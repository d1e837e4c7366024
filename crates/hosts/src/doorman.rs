//! A thread that stands in namespaces of its own and does there what it is asked to.
//!
//! Namespaces belong to threads, so that no process is needed to hold one, and a fork by this thread begins in them.
//! It lives as long as its owner: a child that wants to be told of its parent's death is told of that of the thread
//! that forked it.

use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

type Job = Box<dyn FnOnce() + Send>;

/// The thread. Dropping it ends and awaits it.
pub(crate) struct Doorman {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Doorman {
    pub(crate) fn start(name: &str) -> Result<Doorman> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || inbox.into_iter().for_each(|job| job()))
            .context("cannot start a thread")?;
        Ok(Doorman { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has something done and awaits it.
    pub(crate) fn ask<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, outcome) = mpsc::channel();
        let job = Box::new(move || {
            // Nobody waits any more only when the asker panicked.
            let _ = answer.send(job());
        });
        let gone = || anyhow!("the thread of these namespaces is gone");
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        outcome.recv().map_err(|_| gone())?
    }
}

impl Drop for Doorman {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("error: a thread that held namespaces panicked");
        }
    }
}
