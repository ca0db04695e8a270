//! The sequences of one request as they come: tokens to text, stop strings, ends. It knows no wire format.

use std::sync::atomic::Ordering;

use ounce_engine::sampler::StopMatcher;
use ounce_engine::{Finish, Scored};
use ounce_formats::tokenizer::{DecodeStream, Tokenizer};

use crate::desk::Ticket;
use crate::error::ApiError;
use crate::worker::Event;

/// What is new of one sequence.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub index: usize,
    /// Text that can be shown: whole characters, nothing that may become a stop string.
    pub text: String,
    pub token: Option<Scored>,
    /// A token of the prompt, where these are scored.
    pub prompt: Option<Scored>,
    /// The token that ended the sequence and is not part of it.
    pub end: Option<Scored>,
    /// `stop` or `length`.
    pub finish: Option<&'static str>,
}

pub struct Answers {
    ticket: Ticket,
    sequences: Vec<Sequence>,
    /// Tokens generated so far, of all sequences.
    pub tokens: usize,
    /// Prompt tokens that were in the cache, of all sequences.
    pub cached: usize,
}

struct Sequence {
    decode: DecodeStream,
    stop: StopMatcher,
    ended: bool,
}

impl Answers {
    /// Where `skip_special`, special tokens are no part of their text.
    pub fn new(ticket: Ticket, tokenizer: &Tokenizer, stop: &[String], skip_special: bool) -> Answers {
        let decode = || tokenizer.stream_with(skip_special);
        let sequence = || Sequence { decode: decode(), stop: StopMatcher::new(stop), ended: false };
        let sequences = ticket.satisfied.iter().map(|_| sequence()).collect();
        Answers { ticket, sequences, tokens: 0, cached: 0 }
    }

    /// What comes next; nothing once every sequence has ended.
    ///
    /// # Errors
    /// 503 where the server ends first or the request takes too long, 500 where the model cannot be run.
    pub async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        while self.sequences.iter().any(|s| !s.ended) {
            // An event that is there is taken before the time is looked at: a model that is fast enough would go on for ever.
            if tokio::time::Instant::now() >= self.ticket.deadline {
                return Err(ApiError::timeout());
            }
            let event = tokio::time::timeout_at(self.ticket.deadline, self.ticket.events.recv());
            let Some((index, event)) = event.await.map_err(|_| ApiError::timeout())? else {
                return Err(ApiError::stopping("the server ended before the answer was complete"));
            };
            match event {
                Event::Failed => return Err(ApiError::internal("the model's weights could not be read")),
                Event::Finished(Finish::Unmet, _) => return Err(ApiError::unmet()),
                _ => {}
            }
            if let Some(part) = self.part(index, event) {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    fn part(&mut self, index: usize, event: Event) -> Option<Part> {
        let sequence = &mut self.sequences[index];
        // Steps that ran before the engine saw that a sequence was done.
        if sequence.ended {
            return None;
        }
        let mut part = Part { index, ..Part::default() };
        match event {
            Event::Started { cached } => {
                self.cached += cached;
                return None;
            }
            Event::Failed => return None,
            Event::Prompt(scored) => part.prompt = Some(scored),
            Event::Token(scored) => {
                self.tokens += 1;
                let emitted = sequence.stop.push(&sequence.decode.push(scored.token).unwrap_or_default());
                (part.text, part.token) = (emitted.text, Some(scored));
                if emitted.stop.is_some() {
                    part.finish = Some("stop");
                    self.ticket.satisfied[index].store(true, Ordering::Relaxed);
                }
            }
            Event::Finished(reason, end) => {
                part.end = end;
                let emitted = sequence.stop.push(&sequence.decode.finish().unwrap_or_default());
                part.text = emitted.text;
                if emitted.stop.is_none() {
                    part.text += &sequence.stop.finish();
                }
                part.finish = Some(if reason == Finish::Length { "length" } else { "stop" });
            }
        }
        sequence.ended = part.finish.is_some();
        Some(part)
    }
}
