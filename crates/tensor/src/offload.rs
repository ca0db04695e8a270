//! [`Offload`]: values that wait outside memory for their backward pass (as in vDNN, Rhu et al. 2016). A thread writes what a
//! segment left while the next one runs, and reads it back while the segment after it is walked back. It knows buffers and
//! bytes; where they go is for a [`Store`] to know.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::{io, mem};

use crate::device::Device;
use crate::memory::{Buffer, Purpose};
use crate::patience::{Progress, Watch};
use crate::stream::ReadError;
use crate::tensor::Tensor;

/// Takes bytes in.
pub trait Store: Send + Sync {
    /// Called from a thread of its own, in the order in which values are left.
    fn write(&self, bytes: &[u8]) -> Result<Box<dyn Away>, ReadError>;
    /// For who waits.
    fn progress(&self) -> Progress {
        Progress::default()
    }
}

/// Bytes that a store has taken in. Who drops them gives their room back.
pub trait Away: Send {
    /// Fills `into`, as long as what was written.
    fn read(&self, into: &mut [u8]) -> Result<(), ReadError>;
}

/// Room is counted in pages, as disks give it.
const PAGE: usize = 4096;

/// The values of a pass as they go and come.
pub struct Offload {
    device: Device,
    room: Arc<Mutex<Room>>,
    /// To the thread, and what it works with; none on the dry device, where values are counted and never move.
    jobs: Option<(Sender<Job>, Arc<dyn Store>)>,
}

/// Bytes outside memory.
#[derive(Default)]
struct Room {
    live: usize,
    peak: usize,
}

/// A buffer on its way. Tensors that share it go once.
pub(crate) struct Value {
    bytes: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
    room: Arc<Mutex<Room>>,
}

struct Inner {
    state: State,
    /// Stashes that hold it.
    stashes: usize,
}

enum State {
    /// In memory, and being written.
    Leaving(Arc<Buffer>),
    /// The same, written. Nothing on the dry device has a place.
    Written(Arc<Buffer>, Option<Box<dyn Away>>),
    Away(Option<Box<dyn Away>>),
    Coming,
    Here(Arc<Buffer>),
    Failed(ReadError),
}

/// What a segment left, with the place of each tensor among its values.
pub(crate) struct Stash(Vec<(usize, Shape, Arc<Value>)>);

/// A tensor without its storage.
type Shape = Box<dyn Fn(Arc<Buffer>) -> Tensor + Send>;

#[derive(Debug, thiserror::Error)]
#[error("the thread that writes and reads activations has ended")]
struct Ended;

impl Offload {
    /// On a real device, a thread brings values to `store` and back.
    pub fn new(device: &Device, store: Arc<dyn Store>) -> io::Result<Offload> {
        let mut jobs = None;
        if !device.is_dry() {
            let (sender, receiver) = channel();
            let of_thread = store.clone();
            std::thread::Builder::new().name("activations".into()).spawn(move || serve(&*of_thread, receiver))?;
            jobs = Some((sender, store));
        }
        Ok(Offload { device: device.clone(), room: Arc::default(), jobs })
    }

    /// On the dry device: everything is counted, and nothing goes anywhere.
    pub fn dry(device: &Device) -> Offload {
        assert!(device.is_dry(), "on a real device values need a store");
        Offload { device: device.clone(), room: Arc::default(), jobs: None }
    }

    /// Most bytes that were outside memory at once since the last call.
    pub fn take_peak_bytes(&self) -> usize {
        let mut room = lock(&self.room);
        let live = room.live;
        mem::replace(&mut room.peak, live)
    }

    /// Takes the tensors out of `cells` and has them written. Those among `leaving` are on their way already; the others are put
    /// there. All stay in memory until they are let go.
    pub(crate) fn stash<'a>(
        &self,
        cells: impl Iterator<Item = &'a mut Option<Tensor>>,
        leaving: &mut Vec<Arc<Value>>,
    ) -> Stash {
        let mut stash = Vec::new();
        for (i, cell) in cells.enumerate() {
            let Some(tensor) = cell.take_if(|t| t.purpose() == Purpose::Activations) else { continue };
            let value = match leaving.iter().find(|value| value.holds(tensor.storage())) {
                Some(value) => value.clone(),
                None => {
                    let value = self.send(tensor.storage().clone());
                    leaving.push(value.clone());
                    value
                }
            };
            lock(&value.inner).stashes += 1;
            stash.push((i, Box::new(tensor.shape_of()) as Shape, value));
        }
        Stash(stash)
    }

    fn send(&self, buffer: Arc<Buffer>) -> Arc<Value> {
        let bytes = buffer.length();
        self.device.count_write(bytes);
        let mut room = lock(&self.room);
        room.live += pages(bytes);
        room.peak = room.peak.max(room.live);
        drop(room);
        let state = match &self.jobs {
            None => State::Written(buffer, None),
            Some(_) => State::Leaving(buffer),
        };
        let inner = Mutex::new(Inner { state, stashes: 0 });
        let value = Arc::new(Value { bytes, inner, changed: Condvar::new(), room: self.room.clone() });
        if let Some((jobs, _)) = &self.jobs {
            // A job that does not reach the thread fails its value.
            let _ = jobs.send(Job { value: value.clone(), read: None, done: false });
        }
        value
    }

    /// Waits until all of these are written, and lets their memory go. When this happens is fixed, so that the dry device counts
    /// what the real one takes.
    pub(crate) fn let_go(&self, leaving: impl Iterator<Item = Arc<Value>>) -> Result<(), ReadError> {
        for value in leaving {
            let mut inner = self.wait(&value, |state| matches!(state, State::Leaving(_)))?;
            match mem::replace(&mut inner.state, State::Coming) {
                State::Written(_, place) => inner.state = State::Away(place),
                State::Failed(error) => {
                    inner.state = State::Failed(error.clone());
                    return Err(error);
                }
                _ => unreachable!("a value is let go once"),
            }
        }
        Ok(())
    }

    /// Has a stash read back, where it is not coming or here already.
    pub(crate) fn ask(&self, stash: &Stash) {
        for (_, _, value) in &stash.0 {
            let mut inner = lock(&value.inner);
            if !matches!(inner.state, State::Away(_)) {
                continue;
            }
            // Taken here and not by the thread, so that the dry device counts what the real one takes.
            let buffer = self.device.arena().allocate(value.bytes, Purpose::Activations);
            self.device.count_read(value.bytes);
            let State::Away(place) = mem::replace(&mut inner.state, State::Coming) else { unreachable!("asked above") };
            match (&self.jobs, place) {
                (Some((jobs, _)), Some(place)) => {
                    drop(inner);
                    let _ = jobs.send(Job { value: value.clone(), read: Some((buffer, place)), done: false });
                }
                _ => inner.state = State::Here(Arc::new(buffer)),
            }
        }
    }

    /// Waits for a stash that was asked for, and puts its tensors back where they were.
    pub(crate) fn bring<'a>(
        &self,
        stash: Stash,
        cells: impl Iterator<Item = &'a mut Option<Tensor>>,
    ) -> Result<(), ReadError> {
        let mut values = stash.0.into_iter().peekable();
        for (i, cell) in cells.enumerate() {
            let Some((_, shape, value)) = values.next_if(|(at, ..)| *at == i) else { continue };
            let mut inner = self.wait(&value, |state| matches!(state, State::Coming))?;
            let buffer = match &inner.state {
                State::Here(buffer) => buffer.clone(),
                State::Failed(error) => return Err(error.clone()),
                _ => unreachable!("a stash is asked for before it is brought"),
            };
            inner.stashes -= 1;
            if inner.stashes == 0 {
                // Whoever else holds the value for a moment more holds no memory.
                inner.state = State::Away(None);
                value.leave_room();
            }
            *cell = Some(shape(buffer));
        }
        Ok(())
    }

    fn wait<'a>(&self, value: &'a Value, busy: impl Fn(&State) -> bool) -> Result<MutexGuard<'a, Inner>, ReadError> {
        let progress = || self.jobs.as_ref().map_or_else(Progress::default, |(_, store)| store.progress());
        let mut watch = Watch::new("activations", &progress);
        watch.wait_while(&value.changed, lock(&value.inner), |inner| busy(&inner.state))
    }
}

impl Value {
    fn holds(&self, storage: &Arc<Buffer>) -> bool {
        match &lock(&self.inner).state {
            State::Leaving(buffer) | State::Written(buffer, _) => Arc::ptr_eq(buffer, storage),
            _ => false,
        }
    }

    fn set(&self, state: impl FnOnce(State) -> State) {
        let mut inner = lock(&self.inner);
        inner.state = state(mem::replace(&mut inner.state, State::Coming));
        self.changed.notify_all();
    }

    fn leave_room(&self) {
        lock(&self.room).live -= pages(self.bytes);
    }
}

impl Drop for Value {
    /// Also of a pass that is not walked back.
    fn drop(&mut self) {
        if lock(&self.inner).stashes > 0 {
            self.leave_room();
        }
    }
}

/// A value for the thread to write, or to read into a buffer.
struct Job {
    value: Arc<Value>,
    read: Option<(Buffer, Box<dyn Away>)>,
    done: bool,
}

impl Job {
    fn end(mut self, state: impl FnOnce(State) -> State) {
        self.done = true;
        self.value.set(state);
    }
}

impl Drop for Job {
    /// Also when a store panics: nobody waits for a thread that is gone.
    fn drop(&mut self) {
        if !self.done {
            self.value.set(|_| State::Failed(ReadError::new(Ended)));
        }
    }
}

/// Does what it is asked for, in order, until nobody can ask any more.
fn serve(store: &dyn Store, jobs: Receiver<Job>) {
    while let Ok(mut job) = jobs.recv() {
        let bytes = job.value.bytes;
        if let Some((mut buffer, place)) = job.read.take() {
            let read = place.read(&mut buffer.bytes_mut()[..bytes]);
            drop(place);
            job.end(|_| match read {
                Ok(()) => State::Here(Arc::new(buffer)),
                Err(error) => State::Failed(error),
            });
            continue;
        }
        let buffer = match &lock(&job.value.inner).state {
            State::Leaving(buffer) => buffer.clone(),
            _ => unreachable!("a value waits for its job"),
        };
        let written = store.write(&buffer.bytes()[..bytes]);
        drop(buffer);
        job.end(|state| match (state, written) {
            (State::Leaving(buffer), Ok(place)) => State::Written(buffer, Some(place)),
            (_, Err(error)) => State::Failed(error),
            (state, _) => state,
        });
    }
}

fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("lock of a value")
}

#[cfg(test)]
mod tests;
