//! Where what is trained lies while it is not in memory: each segment's matrices as one block, and for each run of rows of a
//! matrix its moments. It knows shapes and sizes, no bytes.

use std::ops::Range;

use ounce_formats::direct::PAGE;
use ounce_model::Model;
use ounce_optim::Layout;
use ounce_tensor::{Elem, ParamId, Weight};

/// Elements of a piece, at most, unless its rows are longer.
const PIECE: usize = 1 << 20;
/// Pieces begin at multiples of so many elements: whole pages of bf16, whole blocks of 8-bit moments.
const UNIT: usize = 2048;

/// A number of a region of the scratch file.
pub type Place = usize;

/// Rows of a matrix that are updated together.
#[derive(Clone, Debug)]
pub struct Piece {
    pub rows: Range<usize>,
    pub elements: usize,
    /// The piece in memory: the weights, where they do not lie in a block, then the moments.
    pub weights: Option<(Place, Range<usize>)>,
    /// `None`: the rule keeps nothing.
    pub moments: Option<(Place, Range<usize>)>,
    pub bytes: usize,
}

/// A matrix on disk.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub id: ParamId,
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub elem: Elem,
    pub layout: Layout,
    /// The segment after whose backward pass it is updated.
    pub complete_at: usize,
    /// Segment and bytes of the block that it is in memory in; `None`: only rows of it ever are.
    pub block: Option<(usize, Range<usize>)>,
    pub rows_per_piece: usize,
    pub pieces: Vec<Piece>,
}

impl Matrix {
    pub fn elements(&self) -> usize {
        self.rows * self.cols
    }
    pub fn row_bytes(&self) -> usize {
        self.cols * self.elem.bytes()
    }
    /// Whether its weights lie with its pieces, as those of a table do that rows are taken from.
    pub fn is_table(&self) -> bool {
        self.complete_at == 0
    }
}

/// What a segment brings into memory: matrices of its own first, then tables.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub bytes: usize,
    /// The part that is one region, and is written back as such.
    pub own: Option<(Place, usize)>,
    /// How many matrices that is.
    pub matrices: usize,
    /// Of the tables: what is read to where.
    pub tables: Vec<(Place, Range<usize>)>,
}

/// The whole of it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// One entry per trained parameter; vectors stay in memory.
    pub matrices: Vec<Option<Matrix>>,
    /// One per segment.
    pub blocks: Vec<Block>,
    /// Bytes of every region.
    pub regions: Vec<usize>,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Places {
    pub fn new(model: &Model, trained: &[ParamId], masters: Elem, layout: Layout) -> Places {
        let mut places = Places { blocks: vec![Block::default(); model.segments()], ..Places::default() };
        places.matrices = trained.iter().map(|&id| places.matrix(model, id, masters, layout)).collect();
        for block in &mut places.blocks {
            if block.matrices > 0 {
                block.own = Some((places.regions.len(), block.bytes));
                places.regions.push(block.bytes);
            }
        }
        // A tied table is the output layer: behind what that segment has of its own, whole pages for direct reads.
        for matrix in places.matrices.iter_mut().flatten().filter(|m| m.is_table()) {
            let last = *model.params[matrix.id].uses.last().expect("every parameter is used somewhere");
            if last == 0 {
                continue;
            }
            let block = &mut places.blocks[last];
            let start = block.bytes.next_multiple_of(PAGE);
            let mut at = start;
            for (place, range) in matrix.pieces.iter().filter_map(|piece| piece.weights.clone()) {
                block.tables.push((place, at..at + range.len()));
                at += range.len();
            }
            block.bytes = at;
            matrix.block = Some((last, start..at));
        }
        places
    }

    fn matrix(&mut self, model: &Model, id: ParamId, masters: Elem, layout: Layout) -> Option<Matrix> {
        let param = &model.params[id];
        let (rows, cols) = param.weight.shape();
        if rows == 1 {
            return None;
        }
        let elem = match &param.weight {
            Weight::Dense(t) => t.elem(),
            Weight::Stored { .. } => masters,
        };
        let (first, last) = (*param.uses.first()?, *param.uses.last()?);
        assert!(first == 0 || first == last, "{} is used by two blocks", param.name);
        let step = UNIT / gcd(cols, UNIT);
        let rows_per_piece = (PIECE / cols / step * step).max(step);
        let layout = layout.of_parameter(rows * cols);
        let mut pieces = Vec::new();
        for start in (0..rows).step_by(rows_per_piece) {
            let rows = start..(start + rows_per_piece).min(rows);
            let elements = rows.len() * cols;
            let mut end: usize = 0;
            let mut part = |bytes: usize| {
                let start = end.next_multiple_of(PAGE);
                end = start + bytes;
                self.regions.push(bytes);
                (self.regions.len() - 1, start..end)
            };
            let weights = (first == 0).then(|| part(elements * elem.bytes()));
            let moments = Some(layout.bytes(elements)).filter(|bytes| *bytes > 0).map(part);
            pieces.push(Piece { rows, elements, weights, moments, bytes: end });
        }
        let mut block = None;
        if first > 0 {
            let own = &mut self.blocks[first];
            let start = own.bytes.next_multiple_of(64);
            own.bytes = start + rows * cols * elem.bytes();
            own.matrices += 1;
            block = Some((first, start..own.bytes));
        }
        let name = param.name.clone();
        Some(Matrix { id, name, rows, cols, elem, layout, complete_at: first, block, rows_per_piece, pieces })
    }

    /// Of all regions, whole pages.
    pub fn bytes(&self) -> usize {
        self.regions.iter().map(|bytes| bytes.next_multiple_of(PAGE)).sum()
    }

    /// Matrices by number in the order in which a backward pass updates them, and their pieces.
    pub fn walk(&self) -> Vec<(usize, usize)> {
        let mut order: Vec<(usize, &Matrix)> =
            self.matrices.iter().enumerate().filter_map(|(i, m)| Some((i, m.as_ref()?))).collect();
        order.sort_by_key(|(_, matrix)| std::cmp::Reverse(matrix.complete_at));
        order.into_iter().flat_map(|(i, m)| (0..m.pieces.len()).map(move |piece| (i, piece))).collect()
    }
}
