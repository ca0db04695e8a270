//! The inputs that the engine embeds, beside the sequences that answer: whose they are, and sending back what comes of them. It
//! knows no HTTP and no text.

use std::sync::Arc;

use ounce_engine::{Embedding, Engine, SeqId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::metrics::Metrics;

/// The inputs of one request.
pub struct Inputs {
    inputs: Vec<Embedding>,
    done: oneshot::Sender<Option<Vec<Vec<f32>>>>,
    /// The name of the adapter they ask for.
    adapter: Option<Arc<str>>,
    /// Free again when the request has ended.
    _place: OwnedSemaphorePermit,
}

impl Inputs {
    pub fn new(
        inputs: Vec<Embedding>,
        done: oneshot::Sender<Option<Vec<Vec<f32>>>>,
        adapter: Option<Arc<str>>,
        place: OwnedSemaphorePermit,
    ) -> Inputs {
        Inputs { inputs, done, adapter, _place: place }
    }
}

/// A request whose inputs the engine has.
struct Open {
    ids: Vec<SeqId>,
    vectors: Vec<Option<Vec<f32>>>,
    request: Inputs,
    /// Its turn has come.
    runs: bool,
}

impl Open {
    fn end(&self, metrics: &Metrics) {
        metrics.embedded(self.request.adapter.as_ref(), self.runs);
    }
}

#[derive(Default)]
pub struct Embedder {
    open: Vec<Open>,
}

impl Embedder {
    pub fn take(&mut self, engine: &mut Engine, mut request: Inputs, metrics: &Metrics) {
        let submit = |input: Embedding| {
            metrics.prompt(input.input.len());
            engine.submit_embedding(input).expect("inputs are checked before they get a place, and adapters stay")
        };
        let ids: Vec<SeqId> = std::mem::take(&mut request.inputs).into_iter().map(submit).collect();
        metrics.waits(request.adapter.as_ref());
        self.open.push(Open { vectors: vec![None; ids.len()], ids, request, runs: false });
    }

    /// Drops what nobody waits for any more, lets the engine work for a moment, and hands out what is done.
    pub fn step(&mut self, engine: &mut Engine, cut: bool, metrics: &Metrics) {
        let gone = |open: &mut Open| cut || open.request.done.is_closed();
        for open in self.open.extract_if(.., gone) {
            open.ids.iter().for_each(|id| engine.cancel(*id));
            open.end(metrics);
        }
        // The engine takes them in turn.
        if let Some(first) = self.open.first_mut().filter(|first| !first.runs) {
            first.runs = true;
            metrics.embeds(first.request.adapter.as_ref());
        }
        match engine.embed() {
            Ok(done) => done.into_iter().for_each(|(id, vector)| self.put(id, vector)),
            // Streamed weights that cannot be read now.
            Err(_) => {
                for open in self.open.drain(..) {
                    open.ids.iter().for_each(|id| engine.cancel(*id));
                    open.end(metrics);
                    let _ = open.request.done.send(None);
                }
            }
        }
        let whole = |open: &mut Open| open.vectors.iter().all(Option::is_some);
        for open in self.open.extract_if(.., whole) {
            open.end(metrics);
            let _ = open.request.done.send(open.vectors.into_iter().collect());
        }
    }

    fn put(&mut self, id: SeqId, vector: Vec<f32>) {
        // Of a request that has gone meanwhile, none.
        for open in &mut self.open {
            if let Some(at) = open.ids.iter().position(|of| *of == id) {
                open.vectors[at] = Some(vector);
                return;
            }
        }
    }
}
