//! The engine's own thread: takes jobs, steps the engine, sends back what comes out. It knows no HTTP and no text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use ounce_engine::{Engine, Finish, Output, Request, Scored, SeqId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::audit::Tally;
use crate::embedder::{Embedder, Inputs};
use crate::metrics::{Ended, Metrics, Sequence};

/// What the engine's thread is told.
pub enum Order {
    Run(Box<Job>),
    Embed(Inputs),
    /// Done between two steps.
    Change(Box<dyn FnOnce(&mut Engine) + Send>),
}

/// One sequence to run.
pub struct Job {
    pub request: Request,
    /// Its number among the sequences of its request, sent along with each event.
    pub index: usize,
    /// When nobody holds the other end, the sequence is cancelled before the next step.
    pub events: UnboundedSender<(usize, Event)>,
    /// Set once the client has all it wants of this sequence: a stop string was found.
    pub satisfied: Arc<AtomicBool>,
    /// Its place among those that run or wait, free again when the sequence has ended.
    pub place: OwnedSemaphorePermit,
    pub received: Instant,
    /// Where its tokens are counted for the audit log.
    pub tally: Option<Arc<Tally>>,
    /// The name of the adapter it asks for.
    pub adapter: Option<Arc<str>>,
    pub group: Arc<Group>,
}

/// The answers to one prompt, counted together once the last of them has ended.
#[derive(Default)]
pub struct Group {
    n: usize,
    ended: AtomicUsize,
    /// Tokens of the longest so far.
    longest: AtomicUsize,
}

impl Group {
    pub fn new(n: usize) -> Group {
        Group { n, ..Group::default() }
    }

    fn end(&self, tokens: usize, metrics: &Metrics) {
        let longest = self.longest.fetch_max(tokens, Ordering::Relaxed).max(tokens);
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == self.n {
            metrics.answered(self.n, longest);
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Started {
        cached: usize,
    },
    Prompt(Scored),
    Token(Scored),
    /// With the token that ended it, where one did.
    Finished(Finish, Option<Scored>),
    /// The model could not be run.
    Failed,
}

/// Who waits for a sequence that the engine has.
struct Client {
    index: usize,
    events: UnboundedSender<(usize, Event)>,
    satisfied: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
    received: Instant,
    tally: Option<Arc<Tally>>,
    adapter: Option<Arc<str>>,
    group: Arc<Group>,
}

/// A job that the engine has.
struct Open {
    client: Client,
    prompt: usize,
    max_tokens: usize,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
    tokens: usize,
}

/// Runs until every sender of orders is gone. While `cut` is set, sequences are dropped unfinished.
pub fn run(mut engine: Engine, orders: Receiver<Order>, metrics: &Metrics, cut: &AtomicBool) {
    let mut open: HashMap<SeqId, Open> = HashMap::new();
    let mut embedder = Embedder::default();
    loop {
        if engine.is_idle() {
            metrics.load(&engine);
            let Ok(order) = orders.recv() else { return };
            take(&mut engine, order, &mut open, &mut embedder, metrics);
        }
        while let Ok(order) = orders.try_recv() {
            take(&mut engine, order, &mut open, &mut embedder, metrics);
        }
        let cut = cut.load(Ordering::Relaxed);
        let gone: Vec<_> = open.iter().filter_map(|(&id, s)| Some((id, s.gone(cut)?))).collect();
        for (id, ended) in gone {
            engine.cancel(id);
            open.remove(&id).into_iter().for_each(|sequence| sequence.end(ended, metrics));
        }
        match engine.step() {
            Ok(outputs) => {
                let tokens: usize = outputs.into_iter().map(|output| deliver(output, &mut open, metrics)).sum();
                if tokens > 0 {
                    metrics.step(tokens);
                }
            }
            // Streamed weights that cannot be read now. Who asks later may have more luck.
            Err(_) => {
                for (id, sequence) in open.drain() {
                    engine.cancel(id);
                    let _ = sequence.client.events.send((sequence.client.index, Event::Failed));
                    sequence.end(Ended::Abort, metrics);
                }
            }
        }
        embedder.step(&mut engine, cut, metrics);
        metrics.load(&engine);
    }
}

fn take(
    engine: &mut Engine,
    order: Order,
    open: &mut HashMap<SeqId, Open>,
    embedder: &mut Embedder,
    metrics: &Metrics,
) {
    let job = match order {
        Order::Run(job) => *job,
        Order::Embed(inputs) => return embedder.take(engine, inputs, metrics),
        Order::Change(change) => return change(engine),
    };
    let Job { request, index, events, satisfied, place, received, tally, adapter, group } = job;
    let (prompt, max_tokens) = (request.prompt.len(), request.params.max_tokens);
    let id = engine.submit(request).expect("prompts are checked before they get a place, and adapters stay");
    metrics.prompt(prompt);
    metrics.waits(adapter.as_ref());
    let client = Client { index, events, satisfied, place, received, tally, adapter, group };
    open.insert(id, Open { client, prompt, max_tokens, started: None, first: None, last: received, tokens: 0 });
}

/// Sends on what came out of a step; how many tokens were worked through for it: the one itself, and the prompt of a first one.
fn deliver(output: Output, open: &mut HashMap<SeqId, Open>, metrics: &Metrics) -> usize {
    let (id, event) = match output {
        Output::Started { id, cached } => (id, Event::Started { cached }),
        Output::Prompt { id, token } => (id, Event::Prompt(token)),
        Output::Token { id, token } => (id, Event::Token(token)),
        Output::Finished { id, reason, token } => (id, Event::Finished(reason, token)),
    };
    let Some(sequence) = open.get_mut(&id) else { return 0 };
    let mut worked = 0;
    match &event {
        Event::Started { cached } => {
            let client = &sequence.client;
            metrics.started(client.adapter.as_ref(), client.received.elapsed(), *cached);
            client.tally.iter().for_each(|tally| tally.cached(*cached));
            sequence.started = Some(Instant::now());
            sequence.prompt -= *cached;
        }
        Event::Token(_) => {
            worked = 1 + std::mem::take(&mut sequence.prompt);
            sequence.count(metrics);
        }
        Event::Prompt(_) | Event::Finished(..) | Event::Failed => {}
    }
    let finish = if let Event::Finished(reason, _) = event { Some(reason) } else { None };
    // Whoever is gone is found before the next step.
    let _ = sequence.client.events.send((sequence.client.index, event));
    if let Some(reason) = finish {
        let ended = match reason {
            Finish::Stop => Ended::Stop,
            Finish::Length => Ended::Length,
            Finish::Unmet => Ended::Abort,
        };
        open.remove(&id).into_iter().for_each(|sequence| sequence.end(ended, metrics));
    }
    worked
}

impl Open {
    fn count(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        match self.first {
            None => metrics.first_token(now - self.client.received),
            Some(_) => metrics.next_token(now - self.last),
        }
        self.first.get_or_insert(now);
        self.last = now;
        self.tokens += 1;
        self.client.tally.iter().for_each(|tally| tally.token());
    }

    /// Whether nobody waits for it any more.
    fn gone(&self, cut: bool) -> Option<Ended> {
        if self.client.satisfied.load(Ordering::Relaxed) {
            return Some(Ended::Stop);
        }
        (cut || self.client.events.is_closed()).then_some(Ended::Abort)
    }

    fn end(self, ended: Ended, metrics: &Metrics) {
        let (client, tokens) = (&self.client, self.tokens);
        let (adapter, received) = (client.adapter.as_ref(), client.received);
        let Open { max_tokens, started, first, last, .. } = self;
        metrics.ended(&Sequence { ended, adapter, received, started, first, last, tokens, max_tokens });
        client.group.end(tokens, metrics);
        // Last: once a place is free, what was there is counted.
        drop(self.client.place);
    }
}
