//! Optimizers, learning-rate schedules and gradient clipping.
//!
//! An optimizer is a rule on a flat shard, in f32 whatever the shard and the state are stored as: it sees elements, never
//! tensors, parameter names, ranks or files. What it keeps between steps is a [`State`] of named buffers, so checkpoints,
//! storage types and sharding need no code per optimizer.
//!
//! To add an optimizer: one file with its rule and its state, one line in [`from_recipe`].

mod adam;
mod adamw;
pub mod clip;
pub mod schedule;
mod sgd;
mod state;

pub use adam::Adam;
pub use adamw::AdamW;
pub use sgd::Sgd;
pub use state::{ArrayType, Buffer, BufferMut, Layout, Moments, State};

pub use ounce_kernels::Rounding;
use ounce_kernels::{BLOCK, Cpu, Out};
use ounce_spec::recipe::{OptimizerName, OptimizerRecipe, StateType};

/// The smallest piece of a parameter that an optimizer can update on its own: how a parameter may be cut into shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Any range of elements.
    Element,
    /// Runs of so many elements, counted from the parameter's first.
    Block(usize),
    /// Whole rows.
    Row,
    /// The whole matrix.
    Matrix,
}

impl Unit {
    /// Of a rule that treats each element alone and stores what it keeps as `state`.
    fn of(state: StateType) -> Unit {
        if state == StateType::Block8 { Unit::Block(BLOCK) } else { Unit::Element }
    }
}

/// Where a run stands at one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepContext {
    /// 1 for the first update of the run (the `t` of Adam's bias correction).
    pub step: usize,
    /// From [`schedule::learning_rate`].
    pub lr: f64,
    /// Multiplied into every gradient element first: clipping, and the mean over accumulated batches.
    pub grad_scale: f32,
    /// For what is stored in bf16: random bits that are a function of the run, the step, the parameter and the element.
    pub rounding: Rounding,
}

/// An update rule. The same bits come out for any number of threads and for any cut into [`Unit`]s.
pub trait Optimizer: Send + Sync {
    /// The name a recipe calls it by.
    fn name(&self) -> &'static str;
    fn unit(&self) -> Unit;
    /// What it keeps for each element.
    fn layout(&self) -> Layout;
    /// Bytes that [`Optimizer::init`] allocates for `elements` parameters.
    fn state_bytes(&self, elements: usize) -> usize {
        let Layout { storage, moments } = self.layout();
        State::bytes_of(storage, moments.len(), elements)
    }
    /// The state of a parameter (or shard) of `elements` elements before its first step.
    fn init(&self, elements: usize) -> State {
        let Layout { storage, moments } = self.layout();
        State::zeros(storage, moments, elements)
    }
    /// One update of `param`; one that is stored in bf16 is rounded stochastically. `param`, `grad` and every moment of `state`
    /// have the same length; `state` is of this rule's own layout. Anything else is a bug of the caller and panics with both
    /// lengths.
    fn step(&self, cpu: &Cpu, param: Out, grad: &[f32], state: Moments, at: &StepContext);
}

/// The optimizer a recipe asks for. A group without weight decay (norms, biases) takes a second optimizer, made from a
/// recipe whose `weight_decay` is 0.
pub fn from_recipe(recipe: &OptimizerRecipe) -> Box<dyn Optimizer> {
    match recipe.name {
        OptimizerName::Adamw => Box::new(AdamW::from_recipe(recipe)),
        OptimizerName::Adam => Box::new(Adam::from_recipe(recipe)),
        OptimizerName::Sgd => Box::new(Sgd::from_recipe(recipe)),
    }
}
