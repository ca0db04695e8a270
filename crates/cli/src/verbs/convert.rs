//! `ounce convert` and `ounce merge`: read, change, write.

use ounce_formats::peft;
use ounce_model::Model;
use ounce_model::adapters::lora;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;
use serde_json::json;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::export::{Export, refuse_existing};
use crate::flags::convert::{Convert, Merge};
use crate::model;
use crate::talk::model_error;

pub fn convert(context: &Context, args: Convert) -> Result<Exit> {
    refuse_existing(&args.out)?;
    let checkpoint = model::open(&args.model, &context.env)?;
    let export = Export {
        checkpoint: &checkpoint,
        kind: args.to.into(),
        dtype: args.dtype,
        changed: &|_| false,
        out: args.out,
        tokenizer: args.tokenizer,
    };
    let losses = export.write(&|_| None)?;
    say(context, &export, &losses);
    Ok(Exit::Done)
}

pub fn merge(context: &Context, args: Merge) -> Result<Exit> {
    refuse_existing(&args.out)?;
    let checkpoint = model::open(&args.model, &context.env)?;
    let device = Device::cpu(Cpu::new(context.threads()));
    // The context decides the size of rope tables only, and nothing is run.
    let mut model = Model::load(&device, &checkpoint, 8).map_err(model_error)?;
    let help = "give the directory of a PEFT LoRA adapter that was made for this base model";
    let (config, tensors) =
        peft::read_adapter(args.adapter.as_ref()).map_err(|e| CliError::of(&codes::ADAPTER, &e).help(help))?;
    lora::attach_saved(&mut model, &device, &args.adapter, &config, &tensors)
        .map_err(|e| CliError::of(&codes::ADAPTER, &e).help(help))?;
    let linears = model.family.linears();
    let adapted = |name: &str| linears.iter().find(|l| l.lora.is_some() && model.params[l.weight].name == name);
    let merged = |name: &str| adapted(name).map(|linear| lora::merged(&model, &device, linear).f32().to_vec());
    let changed = |name: &str| adapted(name).is_some();
    let export = Export {
        checkpoint: &checkpoint,
        kind: args.to.map_or(checkpoint.kind, Into::into),
        dtype: args.dtype,
        changed: &changed,
        out: args.out,
        tokenizer: args.tokenizer,
    };
    let losses = export.write(&merged)?;
    say(context, &export, &losses);
    Ok(Exit::Done)
}

fn say(context: &Context, export: &Export, losses: &[String]) {
    let out = export.out.display();
    if context.out.json {
        return context.out.value(&json!({"out": out.to_string(), "losses": losses}));
    }
    context.out.data(out.to_string());
    for loss in losses {
        context.out.note(format!("note: {loss}"));
    }
}
