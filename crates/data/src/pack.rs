//! First-fit packing: each sequence goes into the first row with room (Johnson 1974: at most 1.7 times the rows of the
//! best packing). A tournament tree over the rows' room finds that row in O(log rows).

/// Rows of item indices, each row's lengths adding up to at most `capacity`.
///
/// Every item is in exactly one row. Items longer than `capacity` are the caller's mistake.
pub fn first_fit(lengths: impl ExactSizeIterator<Item = usize>, capacity: usize) -> Vec<Vec<usize>> {
    let leaves = lengths.len().next_power_of_two();
    // room[1] is the root; room[leaves + r] is the room left in row r. Unused rows are as empty as any.
    let mut room = vec![capacity; 2 * leaves];
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for (item, length) in lengths.enumerate() {
        assert!(length <= capacity, "an item of {length} in rows of {capacity}");
        let mut node = 1;
        while node < leaves {
            node *= 2;
            if room[node] < length {
                node += 1;
            }
        }
        let row = node - leaves;
        if row == rows.len() {
            rows.push(Vec::new());
        }
        rows[row].push(item);
        room[node] -= length;
        while node > 1 {
            node /= 2;
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What first-fit means, searched row by row.
    fn reference(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for (item, &length) in lengths.iter().enumerate() {
            match rows.iter_mut().find(|(room, _)| *room >= length) {
                Some((room, items)) => {
                    *room -= length;
                    items.push(item);
                }
                None => rows.push((capacity - length, vec![item])),
            }
        }
        rows.into_iter().map(|(_, items)| items).collect()
    }

    proptest! {
        #[test]
        fn equals_the_search_row_by_row(lengths in prop::collection::vec(1usize..=50, 0..200)) {
            prop_assert_eq!(first_fit(lengths.iter().copied(), 50), reference(&lengths, 50));
        }
    }
}
