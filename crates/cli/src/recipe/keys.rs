//! The table of recipe keys: each with its type, range and meaning. Reading, `schema recipe` and the suggestions all
//! use this one table; a test holds it against `spec::Recipe`.

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bool,
    /// A whole number of at least `min`.
    Count {
        min: u64,
    },
    /// As `Count`, or nothing.
    OptionalCount {
        min: u64,
    },
    /// A number in `min..=max`.
    Number {
        min: f64,
        max: f64,
    },
    Text,
    OptionalText,
    /// One text or a list of them.
    Texts,
    Choice(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path in `spec::Recipe`.
    pub path: &'static str,
    pub kind: Kind,
    /// One sentence, with the unit.
    pub doc: &'static str,
}

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc }
}

const fn count(min: u64) -> Kind {
    Kind::Count { min }
}

const fn number(min: f64, max: f64) -> Kind {
    Kind::Number { min, max }
}

/// The smallest positive number a range can begin with, for values that must be above 0.
const ABOVE_0: f64 = 1e-30;

/// All keys, in the order of `spec::Recipe`.
pub const KEYS: &[Key] = &[
    key("model", Kind::Text, "model directory, GGUF file or hub name"),
    key("data.train", Kind::Texts, "files or directories to train on"),
    key("data.valid", Kind::Texts, "files or directories to evaluate on during the run"),
    key("data.valid_share", number(0.0, 0.9), "share of data.train held out when data.valid is empty, 0 to 0.9"),
    key(
        "data.format",
        Kind::Text,
        "auto, or the name of a row format: messages, sharegpt, alpaca, prompt_completion, text",
    ),
    key("data.max_length", count(1), "longest example, tokens"),
    key("data.too_long", Kind::Choice(&["drop", "truncate", "error"]), "what happens to longer examples"),
    key("data.packing", Kind::Bool, "put several examples in one row, without attention between them"),
    key("data.loss_on_answers", Kind::Bool, "loss on the assistant's turns only"),
    key("data.shuffle", Kind::Bool, "a new order in each epoch, from the seed"),
    key("data.max_samples", Kind::OptionalCount { min: 1 }, "examples to use at most"),
    key("method", Kind::Choice(&["lora", "full"]), "what is trained: low-rank adapters, or all weights"),
    key("lora.rank", count(1), "rank of each adapter"),
    key("lora.alpha", number(0.0, 1e6), "adapters are scaled by alpha / rank"),
    key("lora.dropout", number(0.0, 0.99), "share of adapter inputs dropped in training, 0 to 0.99"),
    key("lora.rslora", Kind::Bool, "scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)"),
    key("lora.target", Kind::Texts, "all-linear, or names of modules: q_proj, v_proj, …"),
    key("lora.init_from", Kind::OptionalText, "PEFT adapter directory to start from"),
    key("optimizer.name", Kind::Choice(&["adamw", "adam", "sgd"]), "update rule"),
    key(
        "optimizer.state",
        Kind::Choice(&["f32", "bf16", "8bit"]),
        "storage of the optimizer's moments; bf16 is rounded stochastically, 8bit is block-wise (Dettmers et al. 2022)",
    ),
    key("optimizer.learning_rate", number(ABOVE_0, 1e3), "step size at its peak"),
    key("optimizer.weight_decay", number(0.0, 1e3), "decoupled for adamw, added to the gradient for adam and sgd"),
    key("optimizer.beta1", number(0.0, 0.999_999), "decay of the mean of gradients"),
    key("optimizer.beta2", number(0.0, 0.999_999_9), "decay of the mean of squares"),
    key("optimizer.eps", number(ABOVE_0, 1.0), "added to the root of the mean of squares"),
    key("optimizer.momentum", number(0.0, 0.999_999), "momentum of sgd"),
    key("optimizer.nesterov", Kind::Bool, "Nesterov's form of sgd's momentum"),
    key("schedule.name", Kind::Choice(&["constant", "linear", "cosine", "wsd"]), "learning rate after the warm-up"),
    key(
        "schedule.warmup_steps",
        Kind::OptionalCount { min: 0 },
        "steps of linear warm-up; nothing: schedule.warmup_ratio",
    ),
    key("schedule.warmup_ratio", number(0.0, 1.0), "warm-up as a share of the run, 0 to 1"),
    key("schedule.final_ratio", number(0.0, 1.0), "where the decay ends, as a share of the peak, 0 to 1"),
    key("schedule.decay_ratio", number(0.0, 1.0), "wsd: share of the run spent decaying, 0 to 1"),
    key("batch_size", count(1), "examples (or packed rows) in a batch"),
    key(
        "micro_batch_tokens",
        count(0),
        "tokens that go through the model at once, in whole sequences: less takes less memory; 0: all of a batch",
    ),
    key("gradient_accumulation", count(1), "batches whose gradients are summed before an update"),
    key(
        "gradients",
        Kind::Choice(&["accumulate", "update_now"]),
        "add gradients up until the end of a step, or update each weight during the backward pass and keep none",
    ),
    key("epochs", number(ABOVE_0, 1e6), "passes over the data; ignored where max_steps is set"),
    key("max_steps", Kind::OptionalCount { min: 1 }, "updates to do; nothing: epochs decide"),
    key("max_grad_norm", number(0.0, 1e30), "limit of the gradient's norm; 0 turns clipping off"),
    key(
        "compute",
        Kind::Choice(&["f32", "bf16", "f16"]),
        "element type of activations and products; f16 scales the loss, and skips steps whose gradients it cannot hold",
    ),
    key(
        "master_weights",
        Kind::Choice(&["f32", "none"]),
        "full tuning: weights of f32, or none but bf16 ones, rounded stochastically",
    ),
    key(
        "activations",
        Kind::Choice(&["auto", "keep", "recompute", "offload"]),
        "keep activations for the backward pass in memory, make them again, or let them wait on disk; auto: what is fastest \
         within the memory limit",
    ),
    key(
        "offload",
        Kind::Choice(&["disk", "none"]),
        "where what does not fit into memory may be: on disk (base weights read from their file, activations, what full tuning \
         trains), or nowhere, so that such a run is refused",
    ),
    key("seed", count(0), "seed of everything random"),
    key("out", Kind::Text, "directory of the run"),
    key("log_every", count(1), "steps between lines of metrics.jsonl"),
    key("save_every", count(0), "steps between checkpoints; 0: only at the end and when interrupted"),
    key("save_limit", count(2), "checkpoints to keep"),
    key("eval_every", count(0), "steps between evaluations; 0: only at the end"),
    key("patience", count(0), "evaluations without improvement before the run stops; 0: never"),
];

/// The sections that keys are nested in, and the key that a bare value there means (`optimizer: sgd`).
pub const SECTIONS: &[(&str, Option<&str>)] = &[
    ("data", Some("data.train")),
    ("lora", None),
    ("optimizer", Some("optimizer.name")),
    ("schedule", Some("schedule.name")),
];

pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}
