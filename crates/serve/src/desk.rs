//! Where requests wait for the engine: a fixed number of places for sequences that run or wait. Who finds none is told so at
//! once. It knows no HTTP but the errors it gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ounce_engine::{Embedding, Engine, Request};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};

use crate::audit;
use crate::embedder::Inputs;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::worker::{self, Event, Group, Job, Order};

/// Grammars of requests are followed on this thread, some deep in themselves.
const STACK_BYTES: usize = 64 << 20;

/// What comes back for a request: events with the number of their sequence.
pub struct Ticket {
    pub events: UnboundedReceiver<(usize, Event)>,
    /// When patience with the answer ends.
    pub deadline: tokio::time::Instant,
    /// For each sequence: set to end it early.
    pub satisfied: Vec<Arc<AtomicBool>>,
}

/// The vectors of a request's inputs; nothing where the model cannot be run.
pub type Vectors = oneshot::Receiver<Option<Vec<Vec<f32>>>>;

pub struct Desk {
    orders: SyncSender<Order>,
    places: Arc<Semaphore>,
    /// All places: sequences that run and wait.
    pub capacity: usize,
    /// Longest time of an answer.
    patience: Duration,
    closed: AtomicBool,
    cut: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    thread: JoinHandle<()>,
}

impl Desk {
    /// Starts the engine's thread, with `queue` places besides those that run. An answer may take `patience`.
    pub fn open(engine: Engine, queue: usize, patience: Duration, metrics: Arc<Metrics>) -> std::io::Result<Desk> {
        let capacity = engine.settings().slots + queue;
        // One more for a change.
        let (orders, incoming) = sync_channel(capacity + 1);
        let cut = Arc::new(AtomicBool::new(false));
        let (seen, counted) = (cut.clone(), metrics.clone());
        // The thread ends when the desk is gone.
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .stack_size(STACK_BYTES)
            .spawn(move || worker::run(engine, incoming, &counted, &seen))?;
        let places = Arc::new(Semaphore::new(capacity));
        Ok(Desk { orders, places, capacity, patience, closed: AtomicBool::new(false), cut, metrics, thread })
    }

    /// Queues the sequences of a request, all or none: `n` to each prompt, one prompt after the other, with the name of the
    /// adapter where it asks for one. Their prompts have been checked.
    ///
    /// # Errors
    /// 429 without enough places, 503 once the desk is closed, 500 where the engine is gone.
    pub fn submit(&self, requests: Vec<Request>, n: usize, adapter: Option<Arc<str>>) -> Result<Ticket, ApiError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(ApiError::stopping("the server is about to end and takes no new requests"));
        }
        let wanted = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let places = self.places.clone().try_acquire_many_owned(wanted);
        let mut places = places.map_err(|_| self.refuse())?;
        let (sender, events) = unbounded_channel();
        let received = Instant::now();
        let tally = audit::current();
        tally.iter().for_each(|tally| tally.prompt(requests.iter().map(|r| r.prompt.len()).sum()));
        let (mut satisfied, mut group) = (Vec::new(), Arc::default());
        for (index, request) in requests.into_iter().enumerate() {
            let place = places.split(1).expect("one place for each request");
            let flag = Arc::new(AtomicBool::new(false));
            satisfied.push(flag.clone());
            if index.is_multiple_of(n) {
                group = Arc::new(Group::new(n));
            }
            let (events, tally, adapter) = (sender.clone(), tally.clone(), adapter.clone());
            let group = group.clone();
            let job = Job { request, index, events, satisfied: flag, place, received, tally, adapter, group };
            // There is room for as many jobs as there are places.
            self.orders
                .try_send(Order::Run(Box::new(job)))
                .map_err(|_| ApiError::internal("the engine has stopped; restart the server"))?;
        }
        Ok(Ticket { events, satisfied, deadline: (received + self.patience).into() })
    }

    fn refuse(&self) -> ApiError {
        self.metrics.rejected();
        ApiError::busy()
    }

    /// Queues the inputs of a request to be embedded: one place for all of them, with the name of the adapter where it asks for
    /// one. They have been checked.
    ///
    /// # Errors
    /// 429 without a place, 503 once the desk is closed, 500 where the engine is gone.
    pub fn embed(&self, inputs: Vec<Embedding>, adapter: Option<Arc<str>>) -> Result<Vectors, ApiError> {
        if self.is_closed() {
            return Err(ApiError::stopping("the server is about to end and takes no new requests"));
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| self.refuse())?;
        audit::current().iter().for_each(|tally| tally.prompt(inputs.iter().map(|i| i.input.len()).sum()));
        let (done, vectors) = oneshot::channel();
        let order = Order::Embed(Inputs::new(inputs, done, adapter, place));
        self.orders.try_send(order).map_err(|_| ApiError::internal("the engine has stopped; restart the server"))?;
        Ok(vectors)
    }

    /// Changes the engine between two steps, and waits for it: not for async code, nor for two at a time. Nothing comes back
    /// where the engine is gone.
    pub fn change<T: Send + 'static>(&self, change: impl FnOnce(&mut Engine) -> T + Send + 'static) -> Option<T> {
        let (done, result) = channel();
        let change = move |engine: &mut Engine| {
            let _ = done.send(change(engine));
        };
        self.orders.send(Order::Change(Box::new(change))).ok()?;
        result.recv().ok()
    }

    /// Takes no more requests.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether the engine's thread runs. It ends before the desk does only by a fault of the program.
    pub fn has_engine(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Sequences that run or wait.
    pub fn busy(&self) -> usize {
        self.capacity - self.places.available_permits()
    }

    /// Drops what runs, unfinished.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}
