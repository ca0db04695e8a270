//! Recipes as people write them, every kind of fault, and mutated files.

use ounce_spec::recipe::{Compute, Gradients, MasterWeights, Method, OptimizerName, ScheduleName, StateType};

use super::*;

fn read(text: &str) -> Result<Resolved, Vec<Fault>> {
    let mut draft = Draft::default();
    draft.file("r.yaml", text);
    draft.finish()
}

fn faults(text: &str) -> Vec<String> {
    let faults = read(text).expect_err("the recipe is faulty");
    faults.into_iter().map(|f| format!("{}: {}; {}", f.at, f.what, f.help.unwrap_or_default())).collect()
}

const OURS: &str = "\
model: base.gguf
data:
  train: [a.jsonl, b.jsonl]
  max_length: 512
method: lora
lora:
  rank: 16
  target: q_proj
optimizer:
  name: sgd
  learning_rate: 2e-4
schedule: wsd
max_steps: 30
seed: 18446744073709551615
out: runs/a
";

#[test]
fn the_table_of_keys_is_the_recipe() {
    fn leaves(prefix: &str, json: &Json, out: &mut Vec<String>) {
        match json {
            Json::Object(map) => {
                for (key, value) in map {
                    leaves(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value, out);
                }
            }
            _ => out.push(prefix.to_owned()),
        }
    }
    let mut fields = Vec::new();
    leaves("", &serde_json::to_value(Recipe::default()).unwrap(), &mut fields);
    assert_eq!(fields, KEYS.iter().map(|k| k.path.to_owned()).collect::<Vec<_>>());
    for alias in aliases::ALIASES {
        assert!(keys::find(alias.to).is_some(), "{} leads to {}, which is no key", alias.name, alias.to);
    }
}

#[test]
fn our_own_names_are_read() {
    let recipe = read(OURS).unwrap().recipe;
    assert_eq!(recipe.data.train, ["a.jsonl", "b.jsonl"]);
    assert_eq!((recipe.data.max_length, recipe.lora.rank), (512, 16));
    assert_eq!(recipe.lora.target, ["q_proj"]);
    assert_eq!((recipe.optimizer.name, recipe.optimizer.learning_rate), (OptimizerName::Sgd, 2e-4));
    assert_eq!((recipe.schedule.name, recipe.max_steps), (ScheduleName::Wsd, Some(30)));
    assert_eq!(recipe.seed, u64::MAX);
    assert_eq!(read("").unwrap().recipe, Recipe::default());
}

#[test]
fn a_llama_factory_recipe_is_read() {
    let resolved = read(
        "model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n\
         dataset: a.jsonl, b.jsonl\ntemplate: llama3\ncutoff_len: 256\nmax_samples: 100\noutput_dir: o\n\
         logging_steps: 10\nsave_steps: 50\nplot_loss: true\nper_device_train_batch_size: 2\n\
         gradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlr_scheduler_type: cosine\n\
         warmup_ratio: 0.1\nbf16: true\nval_size: 0.1\neval_steps: 20\nresume_from_checkpoint: null\nreport_to: none\n",
    )
    .unwrap();
    let r = resolved.recipe;
    assert_eq!((r.model.as_str(), r.method, r.lora.rank), ("m", Method::Lora, 4));
    assert_eq!(r.lora.target, ["all-linear"]);
    assert_eq!(r.data.train, ["a.jsonl", "b.jsonl"]);
    assert_eq!((r.data.max_length, r.data.max_samples, r.data.valid_share), (256, Some(100), 0.1));
    assert_eq!((r.batch_size, r.gradient_accumulation, r.epochs), (2, 8, 3.0));
    assert_eq!((r.log_every, r.save_every, r.eval_every), (10, 50, 20));
    assert_eq!((r.schedule.name, r.schedule.warmup_ratio), (ScheduleName::Cosine, 0.1));
    assert_eq!((r.optimizer.learning_rate, r.compute), (1e-4, Compute::Bf16));
    assert_eq!(resolved.notes.len(), 6, "{:?}", resolved.notes);
    assert_eq!(resolved.notes[2], "r.yaml:8: template changes nothing: the chat template comes with the model");
}

#[test]
fn axolotl_and_trl_spellings_are_read() {
    let r = read(
        "base_model: m\nadapter: lora\nlora_r: 2\nlora_target_modules:\n- q_proj\n- v_proj\ndatasets:\n- path: a.jsonl\n  \
         type: chat\nsequence_len: 64\nsample_packing: false\nmicro_batch_size: 3\nnum_epochs: 2\noptimizer: adamw_torch\n\
         lr_scheduler: constant_with_warmup\ntrain_on_inputs: true\nmax_steps: -1\ngradient_checkpointing: true\nbf16: false\n",
    )
    .unwrap()
    .recipe;
    assert_eq!((r.lora.rank, r.batch_size, r.data.max_length), (2, 3, 64));
    assert_eq!(r.lora.target, ["q_proj", "v_proj"]);
    assert_eq!(r.data.train, ["a.jsonl"]);
    assert_eq!((r.data.packing, r.data.loss_on_answers, r.max_steps), (false, false, None));
    assert_eq!((r.optimizer.name, r.schedule.name), (OptimizerName::Adamw, ScheduleName::Constant));
    assert_eq!((r.activations, r.compute), (ounce_spec::recipe::Activations::Recompute, Compute::F32));
}

#[test]
fn optimizers_of_others_bring_the_storage_of_their_moments() {
    for (text, name, state) in [
        ("optim: adamw_8bit", OptimizerName::Adamw, StateType::Block8),
        ("optimizer: paged_adamw_8bit", OptimizerName::Adamw, StateType::Block8),
        ("optimizer: {name: sgd, state: bf16}", OptimizerName::Sgd, StateType::Bf16),
        ("optim: adamw_torch", OptimizerName::Adamw, StateType::F32),
    ] {
        let optimizer = read(text).unwrap().recipe.optimizer;
        assert_eq!((optimizer.name, optimizer.state), (name, state), "{text}");
    }
    assert_eq!(
        faults("optim: adamw_bnb_8bit\noptimizer:\n  state: bf16\n"),
        ["r.yaml:3: optimizer.state is set twice, first at r.yaml:1; keep one of the two"]
    );
    assert!(faults("optim: adafactor")[0].contains("must be one of adamw, adam, sgd"));
}

#[test]
fn what_cannot_go_together_is_refused_with_what_to_set() {
    assert_eq!(
        faults("gradients: update_now\ngradient_accumulation: 4\n"),
        [
            "recipe: gradients: update_now keeps no gradients, so 4 batches cannot be added up; set \
             gradient_accumulation: 1 (and a larger batch_size if memory allows), or gradients: accumulate",
            "recipe: gradients: update_now changes weights before all gradients are known, so their norm cannot be limited \
             to 1; set max_grad_norm: 0 to train without clipping, or gradients: accumulate",
        ]
    );
    assert_eq!(
        faults("gradients: update_now\nmax_grad_norm: 0\ncompute: f16\n"),
        [
            "recipe: gradients: update_now cannot take back what it has updated, and a step with compute: f16 may have to be \
             skipped; set compute: bf16, whose range is that of f32, or gradients: accumulate"
        ]
    );
    assert_eq!(
        faults("pure_bf16: true"),
        [
            "recipe: master_weights: none is for method: full; adapters are f32, and the base model stays as it is stored; \
          remove master_weights, or set method: full"
        ]
    );
    assert_eq!(
        faults("activations: offload\noffload: none\n"),
        [
            "recipe: activations: offload puts them on disk, and offload: none keeps everything off it; set activations: auto or \
             recompute, or offload: disk"
        ]
    );
    let recipe = read("method: full\nmaster_weights: none\n").unwrap().recipe;
    assert_eq!(recipe.master_weights, MasterWeights::None);
    let recipe = read("gradients: update_now\nmax_grad_norm: 0\n").unwrap().recipe;
    assert_eq!(recipe.gradients, Gradients::UpdateNow);
}

#[test]
fn every_fault_is_reported_with_its_line() {
    assert_eq!(
        faults(
            "modle: m\nlora:\n  rnak: 8\n  alpha: big\ndata:\n  packing: 3\nmethod: lroa\nbatch_size: 0\n\
             optimizer:\n  learning_rate: -1\n  beta1: 1.5\nquantization_bits: 4\nlora_dropout: 2\nval_size: 100\n\
             stage: dpo\nlora_alpha: [1]\nmodel:\n"
        ),
        [
            "r.yaml:1: unknown key \"modle\"; did you mean model?",
            "r.yaml:3: unknown key \"lora.rnak\"; did you mean lora.rank?",
            "r.yaml:4: lora.alpha is the text \"big\", it must be a number from 0 to 1000000; ",
            "r.yaml:6: data.packing is the number 3, it must be true or false; ",
            "r.yaml:7: method is the text \"lroa\", it must be one of lora, full; did you mean lora?",
            "r.yaml:8: batch_size is the number 0, it must be a whole number of at least 1; ",
            "r.yaml:10: optimizer.learning_rate is the number -1, it must be a number above 0, at most 1000; ",
            "r.yaml:11: optimizer.beta1 is the number 1.5, it must be a number from 0 to 0.999999; ",
            "r.yaml:12: unknown key \"quantization_bits\"; all keys: ounce schema recipe",
            "r.yaml:13: lora.dropout is the number 2, it must be a number from 0 to 0.99; ",
            "r.yaml:14: 100 is a number of examples, here it is a share of the data, 0 to 0.9; for example 0.05",
            "r.yaml:15: stage is the text \"dpo\", which is not possible here; supervised tuning and plain text are told \
             apart by the data; rm, dpo, kto and ppo do not exist here yet",
            "r.yaml:16: lora.alpha is set twice, first at r.yaml:4; keep one of the two",
            "r.yaml:17: model is nothing, it must be a text; ",
        ]
    );
    assert_eq!(faults("lora: 8"), ["r.yaml:1: lora is the number 8, it must be a mapping of keys; "]);
    assert!(faults("a: [").first().unwrap().starts_with("r.yaml:"));
}

#[test]
fn flags_win_over_set_and_set_over_the_file() {
    let mut draft = Draft::default();
    draft.file("r.yaml", OURS);
    for set in ["lora.rank=32", "learning_rate=1e-3", "batch_size=2", "data.train=[c.jsonl]", "out=runs/7"] {
        draft.assignment(set);
    }
    draft.flag("--batch-size", "batch_size", Value::Int(8));
    let r = draft.finish().unwrap().recipe;
    assert_eq!((r.lora.rank, r.optimizer.learning_rate, r.batch_size), (32, 1e-3, 8));
    assert_eq!((r.data.train, r.out.as_str()), (vec!["c.jsonl".to_owned()], "runs/7"));

    let mut draft = Draft::default();
    draft.assignment("rank");
    draft.assignment("lora.rank=many");
    let faults = draft.finish().unwrap_err();
    assert_eq!((faults[0].at.as_str(), faults[0].what.as_str()), ("--set rank", "there is no '='"));
    assert_eq!(faults[1].at, "--set lora.rank=many");
}

#[test]
fn the_resolved_recipe_reads_back_the_same() {
    for text in ["", OURS, "lora_alpha: 0.1\nlora_init: 1".split('\n').next().unwrap()] {
        let recipe = read(text).unwrap().recipe;
        let yaml = to_yaml(&recipe);
        assert_eq!(read(&yaml).unwrap_or_else(|f| panic!("{f:?}\n{yaml}")).recipe, recipe);
    }
}

/// Mutated recipes neither panic nor take long, and what is accepted survives being written and read.
/// `OUNCE_FUZZ_ITERS` sets the number of inputs.
#[test]
fn mutated_recipes_do_no_harm() {
    let iterations = std::env::var("OUNCE_FUZZ_ITERS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let words = [
        "lora:",
        "rank",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "|",
        ">",
        "\"",
        "'",
        "#",
        ": ",
        "-1",
        "1e308",
        "18446744073709551616",
        ".nan",
        ".inf",
        "null",
        "~",
        "true",
        "\u{0}",
        "é",
        "\t",
        "?",
        "---\n",
        "data:",
        "optimizer",
        "max_steps: -1",
        "datasets:\n- path: x",
        "0x10",
        "1_000",
        "%",
        "\u{feff}",
    ];
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % n
    };
    let mut accepted = 0;
    for _ in 0..iterations {
        let mut text = if random(2) == 0 { OURS.as_bytes().to_vec() } else { to_yaml(&Recipe::default()).into_bytes() };
        for _ in 0..1 + random(4) {
            let at = random(text.len() + 1);
            match random(4) {
                0 => {
                    text.splice(at..at, words[random(words.len())].bytes());
                }
                1 => text.truncate(at),
                2 if at < text.len() => text[at] = random(256) as u8,
                _ => {
                    let end = (at + random(12)).min(text.len());
                    text.drain(at..end);
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        match read(&text) {
            Ok(resolved) => {
                accepted += 1;
                let yaml = to_yaml(&resolved.recipe);
                let again = read(&yaml).unwrap_or_else(|f| panic!("{f:?}\n{yaml}\nfrom\n{text}"));
                assert_eq!(again.recipe, resolved.recipe, "{text}");
            }
            Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|f| !f.what.is_empty()), "{text}"),
        }
    }
    assert!(
        accepted > iterations / 100,
        "{accepted} of {iterations} accepted: the mutations are too rough to test anything"
    );
}

/// What others accept with commas or with words of their own, and recipes that ship with them.
#[test]
fn recipes_of_other_programs_are_carried_over() {
    let mut draft = Draft::default();
    draft.file(
        "theirs.yaml",
        "base_model: m\nadapter: qlora\nbf16: auto\nlora_target_linear: true\nwandb_project:\ndatasets:\n  - path: d.jsonl\n    type: x\n\
         trust_remote_code: true\noverwrite_output_dir: true\nper_device_eval_batch_size: 1\nspecial_tokens:\n",
    );
    draft.assignment("lora.target=q_proj, v_proj");
    let Resolved { recipe, notes } = draft.finish().unwrap();
    assert_eq!((recipe.model.as_str(), &recipe.data.train[..]), ("m", &["d.jsonl".to_owned()][..]));
    assert_eq!(recipe.lora.target, ["q_proj", "v_proj"]);
    assert_eq!((recipe.method, recipe.compute), (ounce_spec::recipe::Method::Lora, ounce_spec::recipe::Compute::Bf16));
    assert_eq!(notes.len(), 6, "{notes:?}");
    for (refused, help) in [("evals_per_epoch: 4\n", "eval_every"), ("lora.target: []\n", "all-linear")] {
        let mut draft = Draft::default();
        match refused.strip_prefix("lora.target: ") {
            Some(value) => draft.assignment(&format!("lora.target={}", value.trim())),
            None => draft.file("theirs.yaml", refused),
        }
        let faults = draft.finish().unwrap_err();
        assert!(faults.len() == 1 && faults[0].help.as_ref().unwrap().contains(help), "{faults:?}");
    }
}
