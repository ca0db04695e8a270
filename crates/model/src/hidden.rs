//! [`Hidden`]: a pass over whole sequences without a cache, some blocks at a time, so that others can run in between. It gives the
//! hidden states after the final norm: what embeddings are made of. It does not know how they are pooled.

use ounce_tensor::{Device, Elem, Graph, Mode, ReadError, Rows, Tensor};

use crate::model::Model;

pub struct Hidden {
    rows: Rows,
    mode: Mode,
    /// `[t, c]` after `done` blocks; nothing before the embedding.
    x: Option<Tensor>,
    done: usize,
}

impl Hidden {
    /// A pass over `rows`, of which nothing has run yet. `int8` as in [`Model::infer`].
    pub fn new(rows: Rows, int8: bool) -> Hidden {
        Hidden { rows, mode: Mode::Infer { int8 }, x: None, done: 0 }
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Runs up to `blocks` more blocks. After the last one, the hidden states `[t, c]`, f32.
    ///
    /// # Errors
    /// Streamed weights that cannot be read; the pass can go on where it stands.
    pub fn advance(&mut self, model: &Model, device: &Device, blocks: usize) -> Result<Option<Tensor>, ReadError> {
        let last = model.segments() - 1;
        let graph = |segment: usize| {
            model.params.enter(segment, Some(if segment == last { 0 } else { segment + 1 }))?;
            Ok(Graph::new(device, &model.params, &[], self.mode, None, segment))
        };
        let mut x = match self.x.take() {
            Some(x) => x,
            None => {
                let mut g = graph(0)?;
                let x = model.family.embed(&mut g, &self.rows, Elem::F32);
                g.value(x).clone()
            }
        };
        let end = model.family.blocks().min(self.done + blocks.max(1));
        while self.done < end {
            let mut g = match graph(self.done + 1) {
                Ok(g) => g,
                Err(error) => {
                    self.x = Some(x);
                    return Err(error);
                }
            };
            let input = g.input(x, false);
            let out = model.family.block(&mut g, self.done, input, &self.rows, None);
            x = g.value(out).clone();
            self.done += 1;
        }
        if end < model.family.blocks() {
            self.x = Some(x);
            return Ok(None);
        }
        let mut g = match graph(last) {
            Ok(g) => g,
            Err(error) => {
                self.x = Some(x);
                return Err(error);
            }
        };
        let x = g.input(x, false);
        let x = model.family.final_norm(&mut g, x);
        Ok(Some(g.value(x).clone()))
    }
}
