//! Answers to many prompts, batched through the engine. Prompts and answers are tokens; text is the caller's business.

use std::collections::HashMap;

use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Engine, Output, Refusal, Request, SeqId};
use ounce_tensor::ReadError;

/// One answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    /// Whether the model ended it, rather than a limit.
    pub complete: bool,
}

/// Answers each prompt; the order is that of the prompts. A prompt that the engine refuses has its refusal for an answer.
/// `on_step(done)` is called after each step of the engine, and ends the work early by returning false; answers that are not
/// done are then incomplete. Fails where streamed weights cannot be read.
pub fn answer_all(
    engine: &mut Engine,
    prompts: &[Vec<u32>],
    params: &SamplingParams,
    mut on_step: impl FnMut(usize) -> bool,
) -> Result<Vec<Result<Answer, Refusal>>, ReadError> {
    let mut index: HashMap<SeqId, usize> = HashMap::new();
    let mut answers: Vec<Result<Answer, Refusal>> = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        match engine.submit(Request::new(prompt.clone(), params.clone())) {
            Ok(id) => {
                index.insert(id, answers.len());
                answers.push(Ok(Answer::default()));
            }
            Err(refusal) => answers.push(Err(refusal)),
        }
    }
    let mut done = prompts.len() - index.len();
    while !engine.is_idle() {
        for output in engine.step()? {
            match output {
                Output::Token { id, token } => {
                    if let Some(Ok(answer)) = index.get(&id).map(|&i| &mut answers[i]) {
                        answer.tokens.push(token.token);
                    }
                }
                Output::Finished { id, reason, .. } => {
                    if let Some(Ok(answer)) = index.get(&id).map(|&i| &mut answers[i]) {
                        answer.complete = reason == ounce_engine::Finish::Stop;
                    }
                    done += 1;
                }
                Output::Started { .. } | Output::Prompt { .. } => {}
            }
        }
        if !on_step(done) {
            index.keys().for_each(|&id| engine.cancel(id));
            return Ok(answers);
        }
    }
    Ok(answers)
}
