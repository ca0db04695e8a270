//! [`Scratch`]: the store of offloaded activations on a scratch file. It knows bytes, not whose they are.

use std::path::Path;
use std::sync::Arc;

use ounce_formats::scratch::{Region, ScratchError, ScratchFile};
use ounce_tensor::{Away, Progress, ReadError, Store};

/// Where activations wait for their backward pass.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<ScratchFile>);

impl Scratch {
    /// In `dir`, on a file without a name, with room for `bytes` bytes. A disk that is too full is found here, before a run
    /// begins.
    pub fn create(dir: &Path, bytes: usize) -> Result<Scratch, ScratchError> {
        Scratch::on(ScratchFile::create(dir)?, bytes)
    }

    /// On a file of the caller's.
    pub fn on(file: ScratchFile, bytes: usize) -> Result<Scratch, ScratchError> {
        // Given back at once: what was reserved stays the file's.
        drop(file.reserve(bytes)?);
        Ok(Scratch(Arc::new(file)))
    }
}

impl Store for Scratch {
    fn write(&self, bytes: &[u8]) -> Result<Box<dyn Away>, ReadError> {
        let region = self.0.reserve(bytes.len()).map_err(ReadError::new)?;
        self.0.write(&region, bytes).map_err(ReadError::new)?;
        Ok(Box::new(Written { file: self.0.clone(), region }))
    }

    fn progress(&self) -> Progress {
        progress(&self.0)
    }
}

/// Of a scratch file, for who waits.
pub(crate) fn progress(file: &ScratchFile) -> Progress {
    let (meter, patience) = (file.meter(), file.patience());
    Progress { answered: meter.answered(), oldest: meter.oldest().map(|call| call.to_string()), patience }
}

struct Written {
    file: Arc<ScratchFile>,
    region: Region,
}

impl Away for Written {
    fn read(&self, into: &mut [u8]) -> Result<(), ReadError> {
        self.file.read(&self.region, into).map_err(ReadError::new)
    }
}
