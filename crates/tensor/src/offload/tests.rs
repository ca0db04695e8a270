//! Passes over a store in memory that can fail.

use super::*;
use crate::tensor::Elem;
use ounce_kernels::Cpu;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Keeps bytes in memory, and fails or panics at one of its calls, counted from 1.
#[derive(Clone, Default)]
struct Shelf {
    calls: Arc<AtomicUsize>,
    fails_at: usize,
    panics_at: usize,
    writes: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    /// Every call hangs while a test holds it; `impatient` tests do not wait for that.
    disk: Arc<Mutex<()>>,
    impatient: bool,
}

impl Shelf {
    fn call(&self) -> Result<(), ReadError> {
        drop(self.disk.lock());
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        assert_ne!(call, self.panics_at, "a store that panics");
        match call == self.fails_at {
            true => Err(ReadError::new(io::Error::from_raw_os_error(5))),
            false => Ok(()),
        }
    }
}

impl Store for Shelf {
    fn write(&self, bytes: &[u8]) -> Result<Box<dyn Away>, ReadError> {
        self.call()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Parcel(self.clone(), bytes.to_vec())))
    }

    fn progress(&self) -> Progress {
        let patience = if self.impatient { Duration::from_millis(150) } else { Duration::MAX };
        Progress { answered: 0, oldest: Some("write of a file".into()), patience }
    }
}

struct Parcel(Shelf, Vec<u8>);

impl Away for Parcel {
    fn read(&self, into: &mut [u8]) -> Result<(), ReadError> {
        self.0.call()?;
        into.copy_from_slice(&self.1);
        Ok(())
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rows of numbers; on the dry device, of nothing.
fn tensor(device: &Device, rows: usize, first: f32) -> Tensor {
    let mut t = Tensor::empty(device, Elem::F32, rows, 100, Purpose::Activations);
    if !device.is_dry() {
        t.f32_mut().iter_mut().enumerate().for_each(|(i, x)| *x = first + i as f32);
    }
    t
}

/// Three segments forward and back. The second has a view of a tensor of the first, and two handles on one of its own.
fn pass(device: &Device, offload: &Offload) -> Result<Vec<Tensor>, ReadError> {
    let shared = tensor(device, 50, 1.0);
    let own = tensor(device, 30, 2.0);
    let segments = [
        vec![Some(tensor(device, 20, 0.0)), None, Some(shared.clone())],
        vec![Some(shared.view_rows(10, 5)), Some(own.clone()), Some(own.reshape(100, 30))],
        vec![None, Some(tensor(device, 7, 3.0))],
    ];
    drop((shared, own));
    let (mut kept, mut leaving) = (Vec::new(), Vec::new());
    for mut cells in segments {
        let before = leaving.len();
        let stash = offload.stash(cells.iter_mut(), &mut leaving);
        assert!(cells.iter().all(Option::is_none));
        offload.let_go(leaving.drain(..before))?;
        kept.push((cells, stash));
    }
    offload.let_go(leaving.drain(..))?;
    assert_eq!(device.memory().live(), 0);
    let mut back = Vec::new();
    while let Some((mut cells, stash)) = kept.pop() {
        [&stash].into_iter().chain(kept.last().map(|k| &k.1)).for_each(|stash| offload.ask(stash));
        offload.bring(stash, cells.iter_mut())?;
        back.extend(cells.into_iter().flatten());
    }
    Ok(back)
}

#[test]
fn values_come_back_as_they_were_and_what_is_shared_goes_once() {
    let (device, shelf) = (Device::cpu(Cpu::new(1)), Shelf::default());
    let offload = Offload::new(&device, Arc::new(shelf.clone())).unwrap();
    for _ in 0..3 {
        let back = pass(&device, &offload).unwrap();
        let firsts: Vec<(usize, usize, f32)> = back.iter().map(|t| (t.rows(), t.cols(), t.f32()[0])).collect();
        let want = [(7, 100, 3.0), (5, 100, 1001.0), (30, 100, 2.0), (100, 30, 2.0), (20, 100, 0.0), (50, 100, 1.0)];
        assert_eq!(firsts, want);
        assert!(back.iter().all(|t| t.f32().windows(2).all(|w| w[1] == w[0] + 1.0)));
        // Who shares a storage, and who owns one, is as it was.
        assert_eq!(back.iter().map(Tensor::is_unique).collect::<Vec<_>>(), [true, false, false, false, true, false]);
        drop(back);
        assert_eq!(device.memory().live(), 0);
    }
    drop(offload);
    assert_eq!(shelf.writes.load(Ordering::Relaxed), 3 * 4);
    assert_eq!(shelf.held.load(Ordering::Relaxed), 0);
}

#[test]
fn the_dry_device_counts_what_the_real_one_takes() {
    let (real, dry) = (Device::cpu(Cpu::new(1)), Device::dry());
    let of = |device: &Device, offload: Offload| {
        drop(pass(device, &offload).unwrap());
        (device.memory(), device.take_counter(), offload.take_peak_bytes(), offload.take_peak_bytes())
    };
    let dry = of(&dry, Offload::dry(&dry));
    let real = of(&real, Offload::new(&real, Arc::new(Shelf::default())).unwrap());
    assert_eq!(dry, real);
    let rows = (20 + 50 + 30 + 7) as f64;
    assert_eq!((dry.1.write_bytes, dry.1.read_bytes), (rows * 400.0, rows * 400.0));
    // 8,000, 20,000, 12,000 and 2,800 bytes in whole pages; in the end none.
    assert_eq!((dry.2, dry.3), ((2 + 5 + 3 + 1) * PAGE, 0));
}

#[test]
fn every_call_that_fails_is_told_and_the_next_pass_succeeds() {
    for fails_at in 1..=8 {
        let device = Device::cpu(Cpu::new(1));
        let shelf = Shelf { fails_at, ..Shelf::default() };
        let offload = Offload::new(&device, Arc::new(shelf.clone())).unwrap();
        let error = pass(&device, &offload).expect_err("one call fails");
        assert!(error.to_string().contains("os error 5"), "{error}");
        assert_eq!(pass(&device, &offload).unwrap().len(), 6);
        drop(offload);
    }
}

#[test]
fn a_store_that_panics_leaves_nobody_waiting() {
    for panics_at in [1, 3, 5, 8] {
        let device = Device::cpu(Cpu::new(1));
        let offload = Offload::new(&device, Arc::new(Shelf { panics_at, ..Shelf::default() })).unwrap();
        for _ in 0..2 {
            let error = pass(&device, &offload).expect_err("the thread is gone");
            assert!(error.to_string().contains("has ended"), "{error}");
        }
    }
}

#[test]
fn a_store_that_hangs_is_given_up_and_what_it_has_stays_until_it_answers() {
    let (device, shelf) = (Device::cpu(Cpu::new(1)), Shelf { impatient: true, ..Shelf::default() });
    let offload = Offload::new(&device, Arc::new(shelf.clone())).unwrap();
    let hangs = shelf.disk.lock().unwrap();
    let error = pass(&device, &offload).expect_err("it hangs").to_string();
    assert!(error.contains("activations did not come") && error.contains("write of a file"), "{error}");
    drop(offload);
    assert!(device.memory().live() >= 20 * 400, "what the system may still read from");
    drop(hangs);
    let begun = Instant::now();
    while device.memory().live() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the buffers are never given back");
        std::thread::yield_now();
    }
}
