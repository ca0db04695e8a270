//! Spellings of LLaMA-Factory, axolotl and TRL/Transformers for our keys, so that a recipe written for them can be
//! carried over. Where one of their settings has no meaning here it is refused or noted, never silently dropped.

/// How a value written under an alias becomes a value of ours.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// The same value.
    Same,
    /// Their word → ours; other words go through as they are and meet the key's own check.
    Words(&'static [(&'static str, &'static str)]),
    /// Their word → our optimizer and, where the word says it, the storage of its moments; other words go through.
    Optimizer(&'static [(&'static str, &'static str, Option<&'static str>)]),
    /// `true` and `auto` → the first, `false` → the second.
    Switch(&'static str, &'static str),
    /// The opposite truth value.
    Not,
    /// A negative number means nothing is set (`max_steps: -1`).
    NegativeIsNone,
    /// A text with commas is a list; a list of `{path: …}` is the list of paths.
    List,
    /// A share below 1; a count is refused, since ours is a share.
    Share,
}

#[derive(Clone, Copy, Debug)]
pub struct Alias {
    pub name: &'static str,
    /// Path of our key.
    pub to: &'static str,
    pub how: How,
}

const fn a(name: &'static str, to: &'static str) -> Alias {
    Alias { name, to, how: How::Same }
}

const fn b(name: &'static str, to: &'static str, how: How) -> Alias {
    Alias { name, to, how }
}

const SCHEDULES: How = How::Words(&[("constant_with_warmup", "constant"), ("warmup_stable_decay", "wsd")]);
const OPTIMIZERS: How = How::Optimizer(&[
    ("adamw_torch", "adamw", None),
    ("adamw_torch_fused", "adamw", None),
    ("adamw_hf", "adamw", None),
    ("adam_torch", "adam", None),
    ("adamw_8bit", "adamw", Some("8bit")),
    ("adamw_bnb_8bit", "adamw", Some("8bit")),
    ("adamw_torch_8bit", "adamw", Some("8bit")),
    ("paged_adamw_8bit", "adamw", Some("8bit")),
    ("paged_adamw_32bit", "adamw", Some("f32")),
    ("paged_adamw", "adamw", Some("f32")),
    ("adam_8bit", "adam", Some("8bit")),
    ("sgd_8bit", "sgd", Some("8bit")),
]);
/// Tuning on a quantised file is what `qlora` means.
const METHODS: How = How::Words(&[("qlora", "lora")]);
const TARGETS: &[(&str, &str)] = &[("all", "all-linear")];

pub const ALIASES: &[Alias] = &[
    a("model_name_or_path", "model"),
    a("base_model", "model"),
    a("model_name", "model"),
    b("finetuning_type", "method", METHODS),
    b("adapter", "method", METHODS),
    a("lora_rank", "lora.rank"),
    a("lora_r", "lora.rank"),
    a("lora_alpha", "lora.alpha"),
    a("lora_dropout", "lora.dropout"),
    a("use_rslora", "lora.rslora"),
    a("peft_use_rslora", "lora.rslora"),
    b("lora_target", "lora.target", How::List),
    b("lora_target_modules", "lora.target", How::List),
    b("target_modules", "lora.target", How::List),
    a("adapter_name_or_path", "lora.init_from"),
    a("lora_model_dir", "lora.init_from"),
    b("dataset", "data.train", How::List),
    b("datasets", "data.train", How::List),
    b("dataset_name", "data.train", How::List),
    b("eval_dataset", "data.valid", How::List),
    b("test_datasets", "data.valid", How::List),
    b("val_size", "data.valid_share", How::Share),
    b("val_set_size", "data.valid_share", How::Share),
    a("cutoff_len", "data.max_length"),
    a("sequence_len", "data.max_length"),
    a("max_length", "data.max_length"),
    a("max_seq_length", "data.max_length"),
    a("max_samples", "data.max_samples"),
    a("packing", "data.packing"),
    a("sample_packing", "data.packing"),
    b("train_on_inputs", "data.loss_on_answers", How::Not),
    b("train_on_prompt", "data.loss_on_answers", How::Not),
    a("assistant_only_loss", "data.loss_on_answers"),
    b("disable_shuffling", "data.shuffle", How::Not),
    a("per_device_train_batch_size", "batch_size"),
    a("micro_batch_size", "batch_size"),
    a("gradient_accumulation_steps", "gradient_accumulation"),
    a("num_train_epochs", "epochs"),
    a("num_epochs", "epochs"),
    b("max_steps", "max_steps", How::NegativeIsNone),
    b("optim", "optimizer.name", OPTIMIZERS),
    b("optimizer", "optimizer.name", OPTIMIZERS),
    a("learning_rate", "optimizer.learning_rate"),
    a("lr", "optimizer.learning_rate"),
    a("weight_decay", "optimizer.weight_decay"),
    a("adam_beta1", "optimizer.beta1"),
    a("adam_beta2", "optimizer.beta2"),
    a("adam_epsilon", "optimizer.eps"),
    b("lr_scheduler_type", "schedule.name", SCHEDULES),
    b("lr_scheduler", "schedule.name", SCHEDULES),
    a("warmup_ratio", "schedule.warmup_ratio"),
    a("warmup_steps", "schedule.warmup_steps"),
    b("bf16", "compute", How::Switch("bf16", "f32")),
    b("pure_bf16", "master_weights", How::Switch("none", "f32")),
    b("gradient_checkpointing", "activations", How::Switch("recompute", "keep")),
    a("output_dir", "out"),
    a("logging_steps", "log_every"),
    a("save_steps", "save_every"),
    a("save_total_limit", "save_limit"),
    a("eval_steps", "eval_every"),
    a("early_stopping_patience", "patience"),
];

/// Keys of others that change nothing here, as long as their value is one of `fine`.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    pub name: &'static str,
    /// Values that are accepted with the note; empty: any.
    pub fine: &'static [&'static str],
    /// Why the key is not needed, or what to use instead of another value.
    pub why: &'static str,
}

const fn f(name: &'static str, fine: &'static [&'static str], why: &'static str) -> Foreign {
    Foreign { name, fine, why }
}

pub const FOREIGN: &[Foreign] = &[
    f(
        "stage",
        &["sft", "pt"],
        "supervised tuning and plain text are told apart by the data; rm, dpo, kto and ppo do not exist here yet",
    ),
    f("template", &[], "the chat template comes with the model"),
    f("plot_loss", &["true", "false"], "loss.svg is always written"),
    f(
        "report_to",
        &["none", "tensorboard"],
        "metrics.jsonl and TensorBoard files are always written; nothing is sent anywhere",
    ),
    f("resume_from_checkpoint", &["null", "false"], "resume with: ounce tune --resume <run>"),
    f("do_train", &["true"], "tuning trains; to evaluate only: ounce eval"),
    f("do_eval", &["true", "false"], "set eval_every and data.valid"),
    f("eval_strategy", &["no", "steps", "false"], "set eval_every, in steps"),
    f("save_strategy", &["steps", "no", "false"], "set save_every, in steps"),
    f("fp16", &["false"], "set compute: f16, whose loss scale is dynamic; bf16 needs none"),
    f("tf32", &[], "it is a setting of GPUs"),
    f("flash_attention", &[], "attention is always fused"),
    f("overwrite_output_dir", &["true", "false"], "a run is never overwritten: choose another out"),
    f("save_only_model", &["false"], "a checkpoint always has all that a run needs to go on"),
    f("save_safetensors", &["true"], "weights are always safetensors"),
    f("overwrite_cache", &[], "nothing is cached between runs"),
    f("preprocessing_num_workers", &[], "set --threads"),
    f("dataloader_num_workers", &[], "set --threads"),
    f("trust_remote_code", &["true", "false"], "code from a model directory is never run"),
    f("per_device_eval_batch_size", &[], "evaluation fills batches of the size of training's"),
    f("eval_batch_size", &[], "evaluation fills batches of the size of training's"),
    f("eval_sample_packing", &[], "held-out examples are never padded"),
    f("pad_to_sequence_len", &[], "nothing is padded"),
    f("group_by_length", &["false"], "nothing is padded, so there is nothing to gain"),
    f("lora_target_linear", &["true"], "it is the default; name layers with lora.target"),
    f("evals_per_epoch", &["null"], "set eval_every, in steps"),
    f("saves_per_epoch", &["null"], "set save_every, in steps"),
    f("special_tokens", &["null"], "the tokenizer's own files name them"),
    f("wandb_project", &[], "nothing is sent anywhere"),
    f("wandb_entity", &[], "nothing is sent anywhere"),
    f("wandb_watch", &[], "nothing is sent anywhere"),
    f("wandb_name", &[], "nothing is sent anywhere"),
    f("wandb_log_model", &[], "nothing is sent anywhere"),
    f("run_name", &[], "a run is called after its directory: set out"),
    f("model_type", &[], "the model's own files say it"),
    f("tokenizer_type", &[], "the model's own files say it"),
    f("dataset_prepared_path", &[], "nothing is cached between runs"),
    f("strict", &["false"], "GGUF and safetensors are always checked whole"),
    f("ddp_timeout", &[], "there is one process"),
    f("load_in_8bit", &["false"], "give a quantised GGUF file as the model"),
    f("load_in_4bit", &["false"], "give a quantised GGUF file as the model"),
];

pub fn find(name: &str) -> Option<&'static Alias> {
    ALIASES.iter().find(|a| a.name == name)
}

/// How the value under a key of ours is read: as under an alias of the same name, and names of modules also with commas.
pub fn of_own_key(path: &str) -> How {
    if path == "lora.target" { How::List } else { find(path).map_or(How::Same, |a| a.how) }
}

pub fn find_foreign(name: &str) -> Option<&'static Foreign> {
    FOREIGN.iter().find(|f| f.name == name)
}

/// The word of ours for `word`, where the alias has one.
pub fn translate(how: How, to: &str, word: &str) -> Option<&'static str> {
    let table = match how {
        How::Words(table) => table,
        How::List if to == "lora.target" => TARGETS,
        _ => return None,
    };
    table.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours)
}
