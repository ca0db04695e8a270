//! [`Model`]: a family with its parameters, and the two ways to run it: as [`Segments`] for training, or straight through with a
//! KV cache.

use ounce_formats::Checkpoint;
use ounce_spec::ModelConfig;
use ounce_tensor::{
    Device, Elem, Graph, Interleaved, Mode, ParamId, Params, Purpose, ReadError, Rows, Segments, Tensor, Var, Weight,
};

use crate::error::LoadError;
use crate::families::{self, Family};
use crate::kv::Kv;
use crate::load::Loader;

pub struct Model {
    pub config: ModelConfig,
    pub params: Params,
    pub family: Box<dyn Family>,
    /// Positions that the rope tables reach.
    pub context: usize,
}

impl Model {
    /// Builds the model of a checkpoint for sequences of up to `context` tokens (at most what the model was made for).
    /// Weights stay where and how the file has them.
    pub fn load(device: &Device, checkpoint: &Checkpoint, context: usize) -> Result<Model, LoadError> {
        let config = checkpoint.config.clone();
        if config.final_logit_softcapping.is_some() {
            return Err(LoadError::Unsupported { what: "final_logit_softcapping (Gemma 2)".into() });
        }
        let context = context.min(config.max_position_embeddings);
        let mut loader = Loader::new(device, checkpoint);
        let family = families::build(&config, &mut loader, context)?;
        let params = loader.finish(config.tie_word_embeddings)?;
        Ok(Model { config, params, family, context })
    }

    /// Segments of the model: the embedding, the blocks, the head.
    pub fn segments(&self) -> usize {
        self.family.blocks() + 2
    }

    /// Makes every weight trainable: dense in memory, matrices as `elem`; vectors (norms, biases) stay f32. Returns all
    /// parameters.
    pub fn make_dense(&mut self, device: &Device, elem: Elem) -> Vec<ParamId> {
        let ids: Vec<ParamId> = self.params.ids().collect();
        for &id in &ids {
            let weight = &self.params[id].weight;
            let elem = if weight.shape().0 == 1 { Elem::F32 } else { elem };
            if !matches!(weight, Weight::Dense(t) if t.elem() == elem) {
                let dense = weight.to_dense(device, elem, Purpose::Weights);
                self.params[id].weight = Weight::Dense(dense);
            }
        }
        ids
    }

    /// Lays the weights of linear layers out for the products of [`Model::infer`] with `int8`, for any number of rows: a row's
    /// result does not depend on those beside it. The file's pages are let go on the way, so that memory holds weights
    /// once (and the rows of an embedding that are asked for). Does nothing where the processor has no use for it.
    pub fn interleave(&mut self, device: &Device) {
        self.params.interleave(device, &self.multiplied());
    }

    /// Bytes that [`Model::interleave`] takes of memory on `device`, and bytes of the file that it lets go.
    pub fn interleaved_bytes(&self, device: &Device) -> (usize, usize) {
        let Some(_) = device.processor().filter(|cpu| cpu.interleaves()) else { return (0, 0) };
        self.multiplied().into_iter().fold((0, 0), |(laid_out, let_go), p| {
            let weight = &self.params[p].weight;
            let Weight::Stored { dtype, rows, cols, .. } = weight else { return (laid_out, let_go) };
            (laid_out + Interleaved::bytes_of(*dtype, *rows, *cols), let_go + weight.bytes_len())
        })
    }

    /// The weights of linear layers.
    fn multiplied(&self) -> Vec<ParamId> {
        let mut weights: Vec<ParamId> = self.family.linears().iter().map(|l| l.weight).collect();
        weights.push(self.family.output_weight());
        weights
    }

    /// A pass with the cache: the tokens that `kv.begin` laid out in `rows`; logits `[wanted.len(), v]` f32 of the rows
    /// `wanted`. `int8` lets products round activations ([`Mode::Infer`]). Fails where streamed weights cannot be read; what `kv`
    /// got from these rows is then worth nothing.
    pub fn infer(
        &self,
        device: &Device,
        rows: &Rows,
        kv: &mut Kv,
        wanted: &[u32],
        int8: bool,
    ) -> Result<Tensor, ReadError> {
        let last = self.family.blocks() - 1;
        let x = self.blocks_before(device, rows, kv, int8, last)?;
        let mut g = self.infer_graph(device, last + 1, int8)?;
        let x = g.input(x, false);
        let heads = self.family.attend(&mut g, last, x, rows, Some(kv));
        // Only attention lets rows see each other: behind the last one, the others are of no use.
        let which = wanted.into();
        let (x, heads) = (g.select_rows(x, &which), g.select_rows(heads, &which));
        let x = self.family.finish(&mut g, last, x, heads, &rows.only(wanted));
        self.head(device, g.value(x).clone(), None, int8)
    }

    /// The part of [`Model::infer`] before the head, for all rows: what the last block gives, `[t, c]`.
    pub fn infer_blocks(&self, device: &Device, rows: &Rows, kv: &mut Kv, int8: bool) -> Result<Tensor, ReadError> {
        self.blocks_before(device, rows, kv, int8, self.family.blocks())
    }

    /// The logits `[wanted.len(), v]` of the rows `wanted` of what [`Model::infer_blocks`] gave.
    pub fn infer_head(&self, device: &Device, x: &Tensor, wanted: &[u32], int8: bool) -> Result<Tensor, ReadError> {
        self.head(device, x.clone(), Some(wanted), int8)
    }

    fn blocks_before(
        &self,
        device: &Device,
        rows: &Rows,
        kv: &mut Kv,
        int8: bool,
        end: usize,
    ) -> Result<Tensor, ReadError> {
        let mut g = self.infer_graph(device, 0, int8)?;
        let x = self.family.embed(&mut g, rows, Elem::F32);
        let mut x = g.value(x).clone();
        for block in 0..end {
            let mut g = self.infer_graph(device, block + 1, int8)?;
            let input = g.input(x, false);
            let out = self.family.block(&mut g, block, input, rows, Some(kv));
            x = g.value(out).clone();
        }
        Ok(x)
    }

    /// The logits of some rows of `x`, or of all.
    fn head(&self, device: &Device, x: Tensor, wanted: Option<&[u32]>, int8: bool) -> Result<Tensor, ReadError> {
        let mut g = self.infer_graph(device, self.segments() - 1, int8)?;
        let mut x = g.input(x, false);
        if let Some(wanted) = wanted {
            x = g.select_rows(x, &wanted.into());
        }
        let x = self.family.final_norm(&mut g, x);
        let logits = g.linear_f32(x, self.family.output_weight(), None);
        Ok(g.value(logits).clone())
    }

    fn infer_graph<'a>(&'a self, device: &'a Device, segment: usize, int8: bool) -> Result<Graph<'a>, ReadError> {
        // After the head comes the first block again, of the next token.
        let next = if segment + 1 == self.segments() { 1 } else { segment + 1 };
        self.params.enter(segment, Some(next))?;
        Ok(Graph::new(device, &self.params, &[], Mode::Infer { int8 }, None, segment))
    }

    /// A pass without a cache over whole sequences: hidden states after the embedding and each block, and the logits of all
    /// rows; all f32 values in type `elem`. For evaluation and tests.
    pub fn trace(&self, device: &Device, rows: &Rows, elem: Elem) -> (Vec<Tensor>, Tensor) {
        let mut g = Graph::new(device, &self.params, &[], Mode::Forward, None, 0);
        let mut x = self.family.embed(&mut g, rows, elem);
        let mut hidden = vec![g.value(x).clone()];
        for block in 0..self.family.blocks() {
            x = self.family.block(&mut g, block, x, rows, None);
            hidden.push(g.value(x).clone());
        }
        let x = self.family.final_norm(&mut g, x);
        let logits = g.linear_f32(x, self.family.output_weight(), None);
        let logits = g.value(logits).clone();
        (hidden, logits)
    }
}

/// The model as the training stage sees it: the last segment computes the loss that `Rows::loss` describes, and gives
/// the loss `[1, 1]` and each row's cross-entropy `[t, 1]`.
pub struct Training<'a> {
    pub family: &'a dyn Family,
    /// Element type of activations.
    pub elem: Elem,
}

impl Segments for Training<'_> {
    fn count(&self) -> usize {
        self.family.blocks() + 2
    }

    fn forward(&self, g: &mut Graph, segment: usize, inputs: &[Var], rows: &Rows) -> Vec<Var> {
        if segment == 0 {
            return vec![self.family.embed(g, rows, self.elem)];
        }
        if segment <= self.family.blocks() {
            return vec![self.family.block(g, segment - 1, inputs[0], rows, None)];
        }
        let x = self.family.final_norm(g, inputs[0]);
        let loss = rows.loss.as_ref().expect("training rows have targets");
        let (loss, each) = g.linear_cross_entropy(x, self.family.output_weight(), loss);
        vec![loss, each]
    }
}
