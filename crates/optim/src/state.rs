//! What an optimizer keeps for one parameter between steps: named f32 buffers. Knows no rule and no file format.

/// Named buffers of one parameter, each as long as the parameter. The names are torch's (`exp_avg`, `momentum_buffer`, …).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    buffers: Vec<(&'static str, Vec<f32>)>,
}

/// A saved buffer that does not fit the state it is loaded into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("{name}: missing")]
    Missing { name: String },
    #[error("{name}: has {found} elements, the parameter needs {needed}")]
    Length { name: String, found: usize, needed: usize },
}

impl State {
    /// Zeroed buffers of `elements` each.
    pub fn zeros(names: &[&'static str], elements: usize) -> State {
        State { buffers: names.iter().map(|&name| (name, vec![0.0; elements])).collect() }
    }

    /// Every buffer with its name, always in the same order: what a checkpoint writes.
    pub fn buffers(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.buffers.iter().map(|(name, values)| (*name, values.as_slice()))
    }

    /// Fills every buffer with what `find` knows under its name. Nothing is changed unless all of them fit.
    ///
    /// # Errors
    /// Every buffer that is missing or has another length.
    pub fn load<'a>(&mut self, find: impl Fn(&str) -> Option<&'a [f32]>) -> Result<(), Vec<Mismatch>> {
        let mut mismatches = vec![];
        for (name, values) in self.buffers() {
            let name = name.to_string();
            match find(&name) {
                None => mismatches.push(Mismatch::Missing { name }),
                Some(saved) if saved.len() != values.len() => {
                    mismatches.push(Mismatch::Length { name, found: saved.len(), needed: values.len() })
                }
                Some(_) => {}
            }
        }
        if !mismatches.is_empty() {
            return Err(mismatches);
        }
        for (name, values) in &mut self.buffers {
            if let Some(saved) = find(name) {
                values.copy_from_slice(saved);
            }
        }
        Ok(())
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|(_, values)| size_of_val(values.as_slice())).sum()
    }

    /// The buffers of a rule that keeps `N`, in the order it named them.
    pub(crate) fn slices<const N: usize>(&mut self) -> [&mut [f32]; N] {
        assert_eq!(self.buffers.len(), N, "the state was made by another optimizer");
        let mut rest = self.buffers.iter_mut();
        std::array::from_fn(|_| rest.next().map(|(_, values)| values.as_mut_slice()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_reports_every_mismatch_and_changes_nothing() {
        let mut state = State::zeros(&["exp_avg", "exp_avg_sq", "third"], 2);
        let (good, short) = ([1.0, 2.0], [1.0]);
        let found = state.load(|name| match name {
            "exp_avg" => Some(&good[..]),
            "exp_avg_sq" => Some(&short[..]),
            _ => None,
        });
        let expected = vec![
            Mismatch::Length { name: "exp_avg_sq".into(), found: 1, needed: 2 },
            Mismatch::Missing { name: "third".into() },
        ];
        assert_eq!(found, Err(expected));
        assert_eq!(state, State::zeros(&["exp_avg", "exp_avg_sq", "third"], 2));
    }

    #[test]
    fn what_was_saved_is_what_is_loaded() {
        let mut saved = State::zeros(&["a", "b"], 3);
        saved.buffers[0].1.copy_from_slice(&[1.0, -2.0, f32::MIN_POSITIVE]);
        saved.buffers[1].1.copy_from_slice(&[0.5, 1e30, -0.0]);
        let mut loaded = State::zeros(&["a", "b"], 3);
        loaded.load(|wanted| saved.buffers().find(|(name, _)| *name == wanted).map(|(_, values)| values)).unwrap();
        assert_eq!(loaded, saved);
        assert_eq!(loaded.bytes(), 24);
    }
}
