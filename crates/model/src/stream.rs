//! [`Model::stream`]: a model whose weights are read from its file a segment ahead of their use, not mapped. It knows places in
//! files and parameters; when a segment runs is for the stage to say.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ounce_formats::group::{Files, Group, Table, Wanted};
use ounce_formats::meter::{Meter, PATIENCE};
use ounce_formats::{Checkpoint, OpenError};
use ounce_tensor::{Device, ParamId, Progress, ReadError, Source, Stream, Weight};

use crate::load;
use crate::model::Model;

/// What is read: a group for each segment, empty where nothing is streamed, and the tables that rows are taken from.
struct File {
    groups: Vec<Group>,
    tables: Vec<Table>,
    meter: Arc<Meter>,
}

impl Source for File {
    fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError> {
        let group = &self.groups[segment];
        group.read(&mut block[..group.bytes()]).map_err(ReadError::new)
    }

    fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError> {
        self.tables[table].read(ids, row_bytes, block).map_err(ReadError::new)
    }

    fn progress(&self) -> Progress {
        let oldest = self.meter.oldest().map(|call| call.to_string());
        Progress { answered: self.meter.answered(), oldest, patience: PATIENCE }
    }
}

impl Model {
    /// From now on the matrices of each segment are read from the files of `checkpoint` (which this model was loaded from)
    /// while the segment before them runs, and let go afterwards; of an embedding, the rows that a batch needs. What has no
    /// place in a file stays in memory.
    pub fn stream(&mut self, device: &Device, checkpoint: &Checkpoint) -> Result<(), OpenError> {
        let mut files = Files::default();
        let mut of_segment: Vec<Vec<(ParamId, Wanted)>> = vec![Vec::new(); self.segments()];
        let (mut tables, mut table_of) = (Vec::new(), Vec::new());
        for (id, param) in self.params.iter() {
            let (Weight::Stored { dtype, .. }, Some(first)) = (&param.weight, param.uses.first()) else { continue };
            let Some((_, data)) = load::lookup(checkpoint, &param.name) else { continue };
            let Some(place) = data.bytes.place() else { continue };
            let wanted = Wanted { name: param.name.clone(), place, align: load::alignment(*dtype) };
            if *first == 0
                && let Some(table) = Table::new(&mut files, &wanted)?
            {
                table_of.push((id, tables.len()));
                tables.push(table);
            }
            // The last use reads it whole: a tied embedding is the output layer there.
            if let Some(last) = param.uses.last().filter(|last| **last > 0) {
                of_segment[*last].push((id, wanted));
            }
        }
        let mut group = |tensors: &Vec<(ParamId, Wanted)>| {
            let wanted: Vec<Wanted> = tensors.iter().map(|t| t.1.clone()).collect();
            Group::new(&mut files, &wanted)
        };
        let groups = of_segment.iter().map(&mut group).collect::<Result<Vec<_>, _>>()?;
        let parts = of_segment.iter().zip(&groups).enumerate().flat_map(|(segment, (tensors, group))| {
            tensors.iter().zip(group.ranges()).map(move |(t, range)| (t.0, (segment, range.clone())))
        });
        let mut slots: BTreeMap<ParamId, (Option<(usize, Range<usize>)>, Option<usize>)> =
            parts.map(|(id, part)| (id, (Some(part), None))).collect();
        for (id, table) in table_of {
            slots.entry(id).or_default().1 = Some(table);
        }
        let bytes = groups.iter().map(Group::bytes).collect();
        let failed = |source| OpenError::Io { path: checkpoint.path.clone(), source };
        let stream =
            Stream::new(device, bytes, Arc::new(File { groups, tables, meter: files.meter() })).map_err(failed)?;
        for (id, (part, table)) in slots {
            let Weight::Stored { bytes, .. } = &mut self.params[id].weight else { unreachable!("asked above") };
            *bytes = Arc::new(stream.slot(part, table, bytes.clone()));
        }
        self.params.set_stream(Arc::new(stream));
        // Pages that were read through the map have no readers any more.
        checkpoint.tensors.iter().for_each(|(_, data)| data.bytes.forget());
        Ok(())
    }

    /// Bytes of weights that stay in memory when all that can be is streamed.
    pub fn unstreamable_bytes(&self, checkpoint: &Checkpoint) -> usize {
        let stays = |name: &str| load::lookup(checkpoint, name).is_none_or(|(_, data)| data.bytes.place().is_none());
        let stored = self.params.iter().filter(|(_, p)| matches!(p.weight, Weight::Stored { .. }));
        stored.filter(|(_, p)| stays(&p.name)).map(|(_, p)| p.weight.bytes_len()).sum()
    }
}
