//! Streams over a source that knows what is asked of it, and fails on demand.

use super::*;
use ounce_kernels::Cpu;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Fills each block with its segment's number; fails at one of them, once.
#[derive(Default)]
struct Numbers {
    reads: Mutex<Vec<usize>>,
    fails_at: AtomicUsize,
    panics_at: AtomicUsize,
    /// Segment 3 hangs while a test holds it; who is `impatient` does not wait for that.
    disk: Mutex<()>,
    impatient: AtomicBool,
}

impl Source for Numbers {
    fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError> {
        self.reads.lock().unwrap().push(segment);
        if self.fails_at.compare_exchange(segment, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Err(ReadError::new(std::io::Error::from_raw_os_error(5)));
        }
        assert_ne!(self.panics_at.load(Ordering::Relaxed), segment, "a source that panics");
        if segment == 3 {
            drop(self.disk.lock());
        }
        block.fill(segment as u8);
        Ok(())
    }

    fn progress(&self) -> Progress {
        let impatient = self.impatient.load(Ordering::Relaxed);
        let patience = if impatient { Duration::from_millis(150) } else { Duration::MAX };
        Progress { answered: 0, oldest: Some("read of a file".into()), patience }
    }

    fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError> {
        if self.fails_at.load(Ordering::Relaxed) == 77 {
            return Err(ReadError::new(std::io::Error::from_raw_os_error(5)));
        }
        for (row, id) in block.chunks_exact_mut(row_bytes).zip(ids) {
            row.fill((10 * table) as u8 + *id as u8);
        }
        Ok(())
    }
}

fn stream(device: &Device) -> (Stream, Arc<Numbers>) {
    let source = Arc::new(Numbers::default());
    (Stream::new(device, vec![0, 8192, 4096, 4096], source.clone()).unwrap(), source)
}

/// Up to the last segment and back.
fn walk(stream: &Stream, mut visit: impl FnMut(usize)) -> Result<(), ReadError> {
    for (segment, next) in [(0, 1), (1, 2), (2, 3), (3, 2), (3, 2), (2, 1), (1, 0)] {
        stream.enter(segment, Some(next))?;
        visit(segment);
    }
    Ok(())
}

#[test]
fn blocks_are_there_when_entered_and_read_in_the_direction_of_travel() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    let away: Arc<dyn Stored> = Arc::new(vec![99u8; 10]);
    let slots: Vec<Slot> = (1..4).map(|s| stream.slot(Some((s, 4000..4010)), None, away.clone())).collect();
    assert_eq!(&*slots[0].hold(), &[99; 10]);
    for _ in 0..2 {
        walk(&stream, |s| {
            if s > 0 {
                assert_eq!(&*slots[s - 1].hold(), &[s as u8; 10]);
            }
        })
        .unwrap();
    }
    // What the turn and the next step need is not read twice.
    assert_eq!(*source.reads.lock().unwrap(), [1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(&*slots[2].hold(), &[99; 10]);
}

#[test]
fn a_block_is_changed_where_it_is_and_forgotten_when_the_source_has_another() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    let slot = stream.slot(Some((2, 0..4)), None, Arc::new(vec![99u8; 4]));
    stream.enter(2, Some(1)).unwrap();
    let mut block = stream.take(2);
    block.f32_mut()[0] = 1.0;
    stream.put(2, block);
    stream.enter(2, Some(1)).unwrap();
    assert_eq!(*slot.hold(), 1f32.to_ne_bytes());
    stream.forget().unwrap();
    stream.enter(2, None).unwrap();
    assert_eq!(*slot.hold(), [2; 4]);
    assert_eq!(*source.reads.lock().unwrap(), [2, 1, 2]);
}

#[test]
fn the_dry_device_counts_what_the_real_one_takes() {
    let (real, dry) = (Device::cpu(Cpu::new(1)), Device::dry());
    let walked = |device: &Device| {
        let (stream, _) = stream(device);
        walk(&stream, |_| {}).unwrap();
        // While the stream lives: a real one may still be reading when it is let go.
        device.memory()
    };
    let (real_use, dry_use) = (walked(&real), walked(&dry));
    assert_eq!(dry_use, real_use);
    assert_eq!(dry_use.at_peak_bytes[Purpose::Weights as usize], 8192 + 4096);
    let read = dry.take_counter().read_bytes;
    assert_eq!((read, real.take_counter().read_bytes), (8192.0 + 4096.0 + 4096.0 + 8192.0, read));
}

#[test]
fn rows_of_a_table_are_read_alone_each_once() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    let table = stream.slot(None, Some(2), Arc::new(vec![0u8]));
    let (held, order) = table.hold_rows(&device, &[5, 3, 5, 9], 3).unwrap();
    assert_eq!((&*held, &order[..]), (&[23, 23, 23, 25, 25, 25, 29, 29, 29][..], &[1, 0, 1, 2][..]));
    assert!(stream.slot(None, None, Arc::new(vec![0u8])).hold_rows(&device, &[5], 3).is_none());
    source.fails_at.store(77, Ordering::Relaxed);
    stream.enter(0, None).unwrap();
    assert_eq!(&*table.hold_rows(&device, &[5], 2).unwrap().0, &[0, 0]);
    assert!(stream.enter(1, None).unwrap_err().to_string().contains("os error 5"));
    stream.enter(1, None).unwrap();
}

#[test]
fn a_failed_read_is_told_and_may_be_tried_again() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    source.fails_at.store(3, Ordering::Relaxed);
    let error = walk(&stream, |s| assert!(s < 3)).unwrap_err();
    assert!(error.to_string().contains("os error 5"), "{error}");
    walk(&stream, |_| {}).unwrap();
}

#[test]
fn a_source_that_panics_leaves_nobody_waiting() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    source.panics_at.store(2, Ordering::Relaxed);
    let error = walk(&stream, |_| {}).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert!(walk(&stream, |_| {}).is_err());
}

#[test]
fn a_source_that_hangs_is_given_up_and_its_buffers_stay_until_it_answers() {
    let device = Device::cpu(Cpu::new(1));
    let (stream, source) = stream(&device);
    let table = stream.slot(None, Some(2), Arc::new(vec![0u8]));
    source.impatient.store(true, Ordering::Relaxed);
    let hangs = source.disk.lock().unwrap();
    let error = walk(&stream, |s| assert!(s < 3)).unwrap_err().to_string();
    assert!(error.contains("weights of a block did not come") && error.contains("read of a file"), "{error}");
    // Rows come from the same thread.
    assert_eq!(&*table.hold_rows(&device, &[5], 2).unwrap().0, &[0, 0]);
    let error = stream.enter(1, None).unwrap_err().to_string();
    assert!(error.contains("rows of an embedding did not come"), "{error}");
    assert!(stream.forget().is_err());
    drop((stream, table));
    assert!(device.memory().live() >= 4096, "what the system may still write to");
    drop(hangs);
    let begun = std::time::Instant::now();
    while device.memory().live() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the buffers are never given back");
        std::thread::yield_now();
    }
}
