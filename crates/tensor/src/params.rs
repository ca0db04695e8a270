//! [`Params`]: every parameter once, under its Hugging Face name, with the segments that use it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::Device;
use crate::interleaved::Interleaved;
use crate::stream::{ReadError, Stream};
use crate::weight::Weight;

/// An index into [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

#[derive(Clone, Debug)]
pub struct Param {
    /// The name on disk, in memory and in messages.
    pub name: String,
    pub weight: Weight,
    /// The same weights in the order of products of answering models, where they have been asked for.
    pub interleaved: Option<Interleaved>,
    /// Segments whose forward uses it, ascending. A tied weight has several.
    pub uses: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    index: HashMap<String, ParamId>,
    /// Where weights are in memory only while their segment runs.
    stream: Option<Arc<Stream>>,
}

impl Params {
    /// Adds a parameter. Panics if the name is taken: names come from code, not from files.
    pub fn add(&mut self, name: &str, weight: Weight) -> ParamId {
        let id = ParamId(self.list.len() as u32);
        assert!(self.index.insert(name.to_string(), id).is_none(), "two parameters named {name}");
        self.list.push(Param { name: name.to_string(), weight, interleaved: None, uses: Vec::new() });
        id
    }

    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.index.get(name).copied()
    }

    /// Records that `segment` uses `p`.
    pub fn used_in(&mut self, p: ParamId, segment: usize) {
        let uses = &mut self.list[p.0 as usize].uses;
        if !uses.contains(&segment) {
            uses.push(segment);
            uses.sort_unstable();
        }
    }

    /// The segment after whose backward pass the gradient of `p` is whole: the earliest that uses it.
    pub fn complete_at(&self, p: ParamId) -> usize {
        *self[p].uses.first().expect("every parameter is used somewhere")
    }

    /// Lays these weights out for answering, where that helps. Not where weights are streamed: that would take the
    /// memory which streaming saves.
    pub fn interleave(&mut self, device: &Device, which: &[ParamId]) {
        if self.stream.is_some() {
            return;
        }
        let weights: Vec<&Weight> = which.iter().map(|p| self.weight(*p)).collect();
        for (p, interleaved) in which.iter().zip(Interleaved::all(device, &weights)) {
            self.list[p.0 as usize].interleaved = interleaved;
        }
    }

    /// From now on, `stream` brings the weights that lie in its slots.
    pub fn set_stream(&mut self, stream: Arc<Stream>) {
        self.stream = Some(stream);
    }

    /// `segment` is about to run, and `next` after it. Whoever runs a segment says so first.
    pub fn enter(&self, segment: usize, next: Option<usize>) -> Result<(), ReadError> {
        self.stream.as_ref().map_or(Ok(()), |stream| stream.enter(segment, next))
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.list.len() as u32).map(ParamId)
    }
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.list.iter().enumerate().map(|(i, p)| (ParamId(i as u32), p))
    }
    pub fn weight(&self, p: ParamId) -> &Weight {
        &self.list[p.0 as usize].weight
    }
}

impl std::ops::Index<ParamId> for Params {
    type Output = Param;
    fn index(&self, p: ParamId) -> &Param {
        &self.list[p.0 as usize]
    }
}

impl std::ops::IndexMut<ParamId> for Params {
    fn index_mut(&mut self, p: ParamId) -> &mut Param {
        &mut self.list[p.0 as usize]
    }
}
