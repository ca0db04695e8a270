//! Token sequences to batches, in an order that depends on nothing but the data, the settings, the seed and the epoch.
//!
//! A batch is ragged: sequences side by side with their bounds. Nothing is padded, and packing only decides how many
//! sequences share a batch; attention never crosses a bound.

use serde::{Deserialize, Serialize};

use crate::{error::DataError, pack::first_fit, random::shuffle, tokenize::Tokenized};

/// What one forward pass sees. All vectors but `bounds` and `examples` have one entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub ids: Vec<u32>,
    /// The token after each, in its sequence; the last token of a sequence has itself, with weight 0.
    pub targets: Vec<u32>,
    /// 1 where the target bears loss, else 0.
    pub weights: Vec<f32>,
    /// Place of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// Where each sequence starts, and the end of the last.
    pub bounds: Vec<usize>,
    /// The example of each sequence: an index into the data set.
    pub examples: Vec<u32>,
}

impl Batch {
    /// Puts sequences side by side.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Tokenized>) -> Batch {
        let mut batch = Batch { bounds: vec![0], ..Batch::default() };
        for sequence in sequences {
            let n = sequence.ids.len();
            batch.ids.extend(&sequence.ids);
            batch.targets.extend(sequence.ids.iter().skip(1).chain(sequence.ids.last()));
            let bears = sequence.loss.iter().skip(1).map(|&l| f32::from(u8::from(l)));
            batch.weights.extend(bears.chain((n > 0).then_some(0.0)));
            batch.positions.extend(0..n as u32);
            batch.bounds.push(batch.ids.len());
            batch.examples.push(sequence.example);
        }
        batch
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The same sequences in the same order, in parts of at most `tokens` tokens; a longer sequence is a part of its own. 0: one
    /// part. Which parts depends on the batch only.
    pub fn parts(&self, tokens: usize) -> Vec<Batch> {
        let mut parts = Vec::new();
        let sequences = self.examples.len();
        let mut first = 0;
        while first < sequences {
            let fits = |&last: &usize| tokens == 0 || self.bounds[last + 1] - self.bounds[first] <= tokens;
            let end = 1 + (first..sequences).take_while(fits).last().unwrap_or(first);
            let (from, to) = (self.bounds[first], self.bounds[end]);
            parts.push(Batch {
                ids: self.ids[from..to].to_vec(),
                targets: self.targets[from..to].to_vec(),
                weights: self.weights[from..to].to_vec(),
                positions: self.positions[from..to].to_vec(),
                bounds: self.bounds[first..=end].iter().map(|b| b - from).collect(),
                examples: self.examples[first..end].to_vec(),
            });
            first = end;
        }
        parts
    }

    /// Tokens that bear loss: what a mean over the batch divides by.
    pub fn loss_tokens(&self) -> usize {
        self.weights.iter().filter(|&&w| w > 0.0).count()
    }
}

/// How sequences become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub seed: u64,
    /// Rows per batch: packed rows of `max_length` tokens, or single sequences.
    pub batch_size: usize,
    pub max_length: usize,
    pub packing: bool,
    pub shuffle: bool,
    /// Passes per epoch over each file of the data set, by [`Tokenized::source`]; missing ones are 1.
    pub weights: Vec<f64>,
}

/// The position in the data: saved in a checkpoint, restored bit for bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub seed: u64,
    pub epoch: u64,
    /// The next batch of that epoch.
    pub batch: usize,
    /// BLAKE3 of the sequences and the settings that the position belongs to.
    pub data: String,
}

/// An endless source of batches, epoch after epoch.
pub struct Batches {
    items: Vec<Tokenized>,
    settings: Settings,
    /// Items of each file, and the passes over it per epoch.
    groups: Vec<(Vec<usize>, f64)>,
    data: String,
    epoch: u64,
    batch: usize,
    /// The batches of `epoch`, as indices into `items`.
    plan: Vec<Vec<usize>>,
}

impl Batches {
    /// # Errors
    /// Where there is nothing to serve or a setting makes no sense.
    pub fn new(items: Vec<Tokenized>, settings: Settings) -> Result<Batches, DataError> {
        if items.is_empty() {
            return Err(DataError::NothingLeft { reason: "there are no sequences".into() });
        }
        if settings.batch_size == 0 {
            let reason = "a batch needs at least one row";
            return Err(DataError::Setting { name: "batch_size", value: "0".into(), reason });
        }
        let longest = items.iter().map(|i| i.ids.len()).max().unwrap_or(0);
        if longest > settings.max_length {
            let value = settings.max_length.to_string();
            let reason = "a sequence is longer; tokenise with the same max_length";
            return Err(DataError::Setting { name: "max_length", value, reason });
        }
        let sources = items.iter().map(|i| i.source as usize + 1).max().unwrap_or(0);
        let mut groups: Vec<(Vec<usize>, f64)> =
            (0..sources).map(|s| (Vec::new(), settings.weights.get(s).copied().unwrap_or(1.0))).collect();
        for (i, item) in items.iter().enumerate() {
            groups[item.source as usize].0.push(i);
        }
        if let Some((_, weight)) = groups.iter().find(|(_, w)| !(*w > 0.0 && *w <= 1000.0)) {
            let reason = "it is the number of passes over the file per epoch, above 0 and at most 1000";
            return Err(DataError::Setting { name: "the weight of a data set", value: weight.to_string(), reason });
        }
        let per_epoch: f64 = groups.iter().map(|(members, weight)| members.len() as f64 * weight).sum();
        if per_epoch < 1.0 {
            let reason = "together the weights leave less than one example per epoch";
            return Err(DataError::Setting { name: "the weight of a data set", value: per_epoch.to_string(), reason });
        }
        let data = fingerprint(&items, &settings);
        let mut batches = Batches { items, settings, groups, data, epoch: 0, batch: 0, plan: Vec::new() };
        batches.plan = batches.plan_of(0);
        Ok(batches)
    }

    /// The next batch; after the last of an epoch comes the first of the next.
    pub fn next_batch(&mut self) -> Batch {
        while self.batch >= self.plan.len() {
            // An epoch can be empty where a weight is so small that no example is due in it.
            self.epoch += 1;
            self.batch = 0;
            self.plan = self.plan_of(self.epoch);
        }
        let batch = Batch::of(self.plan[self.batch].iter().map(|&i| &self.items[i]));
        self.batch += 1;
        batch
    }

    /// The batches of one epoch, without moving the position: for evaluation.
    pub fn epoch_batches(&self, epoch: u64) -> impl Iterator<Item = Batch> + '_ {
        self.plan_of(epoch).into_iter().map(|rows| Batch::of(rows.iter().map(|&i| &self.items[i])))
    }

    pub fn cursor(&self) -> Cursor {
        Cursor { seed: self.settings.seed, epoch: self.epoch, batch: self.batch, data: self.data.clone() }
    }

    /// Goes on where `cursor` was taken: the following batches are exactly those that followed there.
    ///
    /// # Errors
    /// Where the cursor was taken from other data or other settings.
    pub fn restore(&mut self, cursor: &Cursor) -> Result<(), DataError> {
        if cursor.data != self.data || cursor.seed != self.settings.seed {
            let reason = "the data, the tokenizer, max_length, batch_size, packing or the seed has changed".into();
            return Err(DataError::WrongCursor { reason });
        }
        // Counts of examples are exact in f64 up to there, and nobody trains longer.
        if cursor.epoch > u64::from(u32::MAX) {
            return Err(DataError::WrongCursor { reason: format!("epoch {}", cursor.epoch) });
        }
        let plan = self.plan_of(cursor.epoch);
        if cursor.batch > plan.len() {
            let reason = format!("batch {} of an epoch of {}", cursor.batch, plan.len());
            return Err(DataError::WrongCursor { reason });
        }
        (self.epoch, self.batch, self.plan) = (cursor.epoch, cursor.batch, plan);
        Ok(())
    }

    /// Batches in the first epoch. With packing or weights, later epochs can differ by a few: see [`Batches::steps_in`].
    pub fn steps_per_epoch(&self) -> usize {
        self.plan_of(0).len()
    }

    /// Batches in a number of epochs from the start, counted by planning each of them.
    pub fn steps_in(&self, epochs: f64) -> usize {
        if !epochs.is_finite() || epochs <= 0.0 {
            return 0;
        }
        let constant = !self.settings.packing && self.groups.iter().all(|(_, weight)| weight.fract() == 0.0);
        let whole = epochs.floor() as u64;
        let full = if constant {
            self.steps_per_epoch().saturating_mul(whole as usize)
        } else {
            (0..whole).map(|epoch| self.plan_of(epoch).len()).sum()
        };
        let rest = epochs.fract();
        if rest == 0.0 { full } else { full + (rest * self.plan_of(whole).len() as f64).ceil() as usize }
    }

    /// The epoch of the next batch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn sequences(&self) -> &[Tokenized] {
        &self.items
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Items in the order of an epoch.
    ///
    /// Each file is an endless row of passes, every pass in an order of its own; an epoch takes the next `weight` passes
    /// from it. So each example is seen equally often in the long run, whatever the weight.
    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let mut order = Vec::new();
        for (group, (members, weight)) in self.groups.iter().enumerate() {
            let n = members.len() as f64 * weight;
            let due = |epochs: u64| (epochs as f64 * n).round() as u64;
            let (from, to) = (due(epoch), due(epoch.saturating_add(1)));
            let len = members.len() as u64;
            let mut at = from;
            while len > 0 && at < to {
                let pass = at / len;
                let mut pass_order = members.clone();
                if self.settings.shuffle {
                    // One stream per file and pass; the top bits keep them apart from the streams of epochs.
                    shuffle(&mut pass_order, self.settings.seed, (1 << 63) | ((group as u64) << 40) | pass);
                }
                let end = to.min((pass + 1) * len);
                order.extend(&pass_order[(at % len) as usize..(end - pass * len) as usize]);
                at = end;
            }
        }
        if self.settings.shuffle {
            shuffle(&mut order, self.settings.seed, epoch);
        }
        order
    }

    fn plan_of(&self, epoch: u64) -> Vec<Vec<usize>> {
        let order = self.order_of(epoch);
        let size = self.settings.batch_size;
        if !self.settings.packing {
            return order.chunks(size).map(<[usize]>::to_vec).collect();
        }
        let lengths: Vec<usize> = order.iter().map(|&i| self.items[i].ids.len()).collect();
        let rows = first_fit(lengths.into_iter(), self.settings.max_length);
        rows.chunks(size).map(|rows| rows.iter().flatten().map(|&place| order[place]).collect()).collect()
    }
}

fn fingerprint(items: &[Tokenized], settings: &Settings) -> String {
    let mut hasher = blake3::Hasher::new();
    let head = (settings.seed, settings.batch_size, settings.max_length, settings.packing, settings.shuffle);
    hasher.update(format!("{head:?} {:?}", settings.weights).as_bytes());
    for item in items {
        hasher.update(&(item.ids.len() as u64).to_le_bytes());
        hasher.update(&item.source.to_le_bytes());
        for (id, &loss) in item.ids.iter().zip(&item.loss) {
            hasher.update(&(u64::from(*id) << 1 | u64::from(loss)).to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
