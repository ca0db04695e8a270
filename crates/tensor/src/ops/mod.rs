//! The closed set of ops. One file each, in this order: what it computes, the recorded struct, `forward`, `backward`,
//! and the f64 reference with the samples of the conformance test.
//!
//! To add one: its file, a variant in the list below.

pub mod act;
pub mod add;
pub mod attention;
pub mod attention_cached;
pub mod dropout;
pub mod embedding;
pub mod glu;
pub mod layernorm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod low_rank;
pub mod low_rank_rows;
mod norm;
pub mod rmsnorm;
pub mod rope;
pub mod select_rows;
pub mod split;

use crate::graph::{Context, Var};
use crate::params::ParamId;
use crate::tape::{Backward, Question};
use crate::tensor::Tensor;

/// What every op says about itself. The tape asks; models never see this.
pub(crate) trait Rule {
    /// Values it reads, in the order `forward` gets them.
    fn operands(&self) -> Vec<Var>;
    fn params(&self) -> Vec<ParamId> {
        Vec::new()
    }
    /// Whether operand `i` is overwritten: nobody may use it afterwards.
    fn consumes(&self, _i: usize) -> bool {
        false
    }
    /// Computes the outputs. `needs_grad`: a backward pass may follow.
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor>;
    /// What `forward` left in the op itself for `backward`.
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        Vec::new()
    }
    /// The values that `backward` will ask for.
    fn reads(&self, _ask: &Question, _outputs: &[Var]) -> Vec<Var> {
        Vec::new()
    }
    /// If output `output` is cheap to make again: from which values.
    fn rebuilt_from(&self, _output: usize, _outputs: &[Var]) -> Option<Vec<Var>> {
        None
    }
    /// Makes it again.
    fn rebuild(&self, _cx: &Context, _output: usize, _inputs: &[Tensor]) -> Tensor {
        unreachable!("asked only where rebuilt_from answers")
    }
    /// Hands on the gradients of the outputs.
    fn backward(&self, walk: &mut Backward, outputs: &[Var]);
}

macro_rules! ops {
    ($($variant:ident($rule:ty)),* $(,)?) => {
        /// A recorded op.
        pub(crate) enum Op { $($variant($rule)),* }

        impl Rule for Op {
            fn operands(&self) -> Vec<Var> {
                match self { $(Op::$variant(op) => op.operands()),* }
            }
            fn params(&self) -> Vec<ParamId> {
                match self { $(Op::$variant(op) => op.params()),* }
            }
            fn consumes(&self, i: usize) -> bool {
                match self { $(Op::$variant(op) => op.consumes(i)),* }
            }
            fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
                match self { $(Op::$variant(op) => op.forward(cx, inputs, needs_grad)),* }
            }
            fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
                match self { $(Op::$variant(op) => op.saved()),* }
            }
            fn reads(&self, ask: &Question, outputs: &[Var]) -> Vec<Var> {
                match self { $(Op::$variant(op) => op.reads(ask, outputs)),* }
            }
            fn rebuilt_from(&self, output: usize, outputs: &[Var]) -> Option<Vec<Var>> {
                match self { $(Op::$variant(op) => op.rebuilt_from(output, outputs)),* }
            }
            fn rebuild(&self, cx: &Context, output: usize, inputs: &[Tensor]) -> Tensor {
                match self { $(Op::$variant(op) => op.rebuild(cx, output, inputs)),* }
            }
            fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
                match self { $(Op::$variant(op) => op.backward(walk, outputs)),* }
            }
        }
    };
}

ops! {
    Act(act::ActOp),
    Add(add::Add),
    Attention(attention::Attention),
    AttentionCached(attention_cached::AttentionCached),
    Dropout(dropout::Dropout),
    Embedding(embedding::Embedding),
    Glu(glu::Glu),
    LayerNorm(norm::Alone<layernorm::LayerNorm>),
    AddLayerNorm(norm::AfterSum<layernorm::LayerNorm>),
    Linear(linear::Linear),
    LinearCrossEntropy(linear_cross_entropy::LinearCrossEntropy),
    LowRank(low_rank::LowRank),
    LowRankRows(low_rank_rows::Update),
    RmsNorm(norm::Alone<rmsnorm::RmsNorm>),
    AddRmsNorm(norm::AfterSum<rmsnorm::RmsNorm>),
    Rope(rope::Rope),
    SelectRows(select_rows::SelectRows),
    Split(split::Split),
}
