//! The inputs that the engine embeds, beside the sequences that answer: whose they are, and sending back what comes of them. It
//! knows no HTTP and no text.

use ounce_engine::{Embedding, Engine, SeqId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::metrics::Metrics;

/// The inputs of one request.
pub struct Inputs {
    inputs: Vec<Embedding>,
    done: oneshot::Sender<Option<Vec<Vec<f32>>>>,
    /// Free again when the request has ended.
    _place: OwnedSemaphorePermit,
}

impl Inputs {
    pub fn new(
        inputs: Vec<Embedding>,
        done: oneshot::Sender<Option<Vec<Vec<f32>>>>,
        place: OwnedSemaphorePermit,
    ) -> Inputs {
        Inputs { inputs, done, _place: place }
    }
}

/// A request whose inputs the engine has.
struct Open {
    ids: Vec<SeqId>,
    vectors: Vec<Option<Vec<f32>>>,
    request: Inputs,
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
        self.open.push(Open { vectors: vec![None; ids.len()], ids, request });
    }

    /// Drops what nobody waits for any more, lets the engine work for a moment, and hands out what is done.
    pub fn step(&mut self, engine: &mut Engine, cut: bool) {
        let gone = |open: &mut Open| cut || open.request.done.is_closed();
        for open in self.open.extract_if(.., gone) {
            open.ids.iter().for_each(|id| engine.cancel(*id));
        }
        match engine.embed() {
            Ok(done) => done.into_iter().for_each(|(id, vector)| self.put(id, vector)),
            // Streamed weights that cannot be read now.
            Err(_) => {
                for open in self.open.drain(..) {
                    open.ids.iter().for_each(|id| engine.cancel(*id));
                    let _ = open.request.done.send(None);
                }
            }
        }
        let whole = |open: &mut Open| open.vectors.iter().all(Option::is_some);
        for open in self.open.extract_if(.., whole) {
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
