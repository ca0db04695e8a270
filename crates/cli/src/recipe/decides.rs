//! What of a recipe decides the weights of a run, as text that checkpoints are told apart by. It knows keys, no files.

use ounce_spec::Recipe;
use ounce_spec::recipe::{Activations, Offload};

/// Keys that recipes did not have from the start, the oldest first, as the text has their defaults. By default each means what was
/// done before it was there, so a checkpoint from then fits. A key of which that is not true does not belong here.
const LATER: [&str; 4] =
    [r#""state":"f32","#, r#""gradients":"accumulate","#, r#""master_weights":"f32","#, r#""offload":"disk","#];

/// The text of this recipe, then what the programs had for it that did not know its youngest keys yet.
pub fn texts(recipe: &Recipe) -> Vec<String> {
    let mut fixed = recipe.clone();
    fixed.out.clear();
    (fixed.log_every, fixed.save_every, fixed.save_limit) = (0, 0, 0);
    // Where something waits changes no bit, nor does computing it again, so a run may go on where there is less memory.
    fixed.activations = Activations::default();
    fixed.offload = Offload::default();
    // A model that was moved is the same model, and another one under the same name is not.
    fixed.model.clear();
    let mut texts = vec![serde_json::to_string(&fixed).expect("plain data with text keys")];
    for key in LATER.iter().rev() {
        let younger = texts.last().expect("there is one");
        // Quotes within a text are escaped, so this can only be the key.
        let Some((before, after)) = younger.split_once(key) else { break };
        texts.push(format!("{before}{after}"));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Draft;

    fn of(yaml: &str) -> Recipe {
        let mut draft = Draft::default();
        draft.file("recipe.yaml", yaml);
        draft.finish().unwrap().recipe
    }

    /// A run's recipe before it could say where things wait, and what its checkpoints were told apart by.
    const OLD_RECIPE: &str =
        "model: a.gguf\nmethod: lora\ngradients: accumulate\nmaster_weights: f32\nactivations: auto\nseed: 7\n";
    const OLD_TEXT: &str = concat!(
        r#"{"model":"","data":{"train":[],"valid":[],"valid_share":0.0,"format":"auto","max_length":1024,"too_long":"drop","#,
        r#""packing":true,"loss_on_answers":true,"shuffle":true,"max_samples":null},"method":"lora","lora":{"rank":8,"#,
        r#""alpha":16.0,"dropout":0.0,"rslora":false,"target":["all-linear"],"init_from":null},"optimizer":{"name":"adamw","#,
        r#""state":"f32","learning_rate":0.0002,"weight_decay":0.0,"beta1":0.9,"beta2":0.999,"eps":1e-8,"momentum":0.9,"#,
        r#""nesterov":false},"schedule":{"name":"cosine","warmup_steps":null,"warmup_ratio":0.03,"final_ratio":0.1,"#,
        r#""decay_ratio":0.2},"batch_size":4,"micro_batch_tokens":512,"gradient_accumulation":1,"gradients":"accumulate","#,
        r#""epochs":1.0,"max_steps":null,"max_grad_norm":1.0,"compute":"bf16","master_weights":"f32","activations":"auto","#,
        r#""seed":7,"out":"","log_every":0,"save_every":0,"save_limit":0,"eval_every":0,"patience":0}"#,
    );

    #[test]
    fn a_key_that_a_recipe_lacks_has_its_default_and_the_checkpoint_fits() {
        let texts = texts(&of(OLD_RECIPE));
        assert_eq!(texts.len(), 1 + LATER.len());
        assert!(texts[0].contains(r#""offload":"disk""#) && !texts[1].contains("offload"));
        assert_eq!(texts[1], OLD_TEXT);
        assert!(texts[4].ends_with(r#""patience":0}"#) && !texts[4].contains(r#""state""#), "{}", texts[4]);
        texts.iter().for_each(|text| drop(serde_json::from_str::<Recipe>(text).unwrap()));
    }

    #[test]
    fn what_older_programs_could_not_do_is_none_of_theirs() {
        let new = texts(&of("model: a.gguf\ngradients: update_now\nmax_grad_norm: 0\n"));
        assert_eq!(new.len(), 3, "without offload, and without master weights");
        assert!(new.iter().all(|text| text.contains(r#""gradients":"update_now""#)));
        // Where things wait is no part of it.
        assert_eq!(texts(&of("model: a.gguf\noffload: none\n")), texts(&of("model: b.gguf\n")));
    }
}
