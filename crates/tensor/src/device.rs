//! Where work is done: on the processor, or nowhere at all ([`Device::Dry`]: shapes, operations and bytes only).

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ounce_kernels::Cpu;

use crate::memory::{Arena, MemoryUse};

/// The kinds of work that a forecast tells apart, because they run at rates of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    MatmulF32,
    MatmulBf16,
    /// Products with a side of at most 32 (adapters): bound by memory, not by arithmetic.
    Skinny,
    Attention,
    AttentionBwd,
    /// Everything that reads and writes each element once.
    Elementwise,
    /// Exponentials over the vocabulary.
    Softmax,
    /// An optimizer's pass over a parameter, its gradient and its state.
    Update,
}

impl Kernel {
    pub const ALL: [Kernel; 8] = [
        Kernel::MatmulF32,
        Kernel::MatmulBf16,
        Kernel::Skinny,
        Kernel::Attention,
        Kernel::AttentionBwd,
        Kernel::Elementwise,
        Kernel::Softmax,
        Kernel::Update,
    ];
}

/// What one kernel call costs: operations (a multiply-add is two) and bytes to and from memory if caches held nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub kernel: Kernel,
    pub flops: f64,
    pub bytes: f64,
}

/// Sums of costs by kernel, in the order of [`Kernel::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counter {
    pub flops: [f64; Kernel::ALL.len()],
    pub bytes: [f64; Kernel::ALL.len()],
    pub calls: [u64; Kernel::ALL.len()],
    /// Bytes read from disk beside the work.
    pub read_bytes: f64,
    /// Bytes written to disk beside the work.
    pub write_bytes: f64,
}

impl Counter {
    pub fn total_flops(&self) -> f64 {
        self.flops.iter().sum()
    }

    /// The same with `by` times as much of one kernel's work.
    pub fn scaled(mut self, kernel: Kernel, by: f64) -> Counter {
        self.flops[kernel as usize] *= by;
        self.bytes[kernel as usize] *= by;
        self
    }
}

/// What a dry run of some work found: the real code's peak of memory and its work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rehearsal {
    pub memory: MemoryUse,
    pub counter: Counter,
    /// Most bytes of values that were outside memory at once.
    pub offloaded_bytes: usize,
}

/// A place to run ops. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    Cpu(Arc<CpuDevice>),
    /// Runs the same code on shapes: nothing is computed, everything is counted.
    Dry(Arc<DryDevice>),
}

#[derive(Debug)]
pub struct CpuDevice {
    cpu: Cpu,
    arena: Arc<Arena>,
    counter: Mutex<Counter>,
    /// Spent in each kind of work, in the order of [`Kernel::ALL`].
    seconds: Mutex<[f64; Kernel::ALL.len()]>,
}

#[derive(Debug)]
pub struct DryDevice {
    arena: Arc<Arena>,
    counter: Mutex<Counter>,
}

impl Device {
    pub fn cpu(cpu: Cpu) -> Device {
        let (counter, seconds) = Default::default();
        Device::Cpu(Arc::new(CpuDevice { cpu, arena: Arena::new(true), counter, seconds }))
    }

    pub fn dry() -> Device {
        Device::Dry(Arc::new(DryDevice { arena: Arena::new(false), counter: Mutex::default() }))
    }

    /// Counts `cost` and, on a real device, does the work.
    pub fn run(&self, cost: Cost, work: impl FnOnce(&Cpu)) {
        let mut counter = self.counter_lock().lock().expect("counter lock");
        let i = cost.kernel as usize;
        counter.flops[i] += cost.flops;
        counter.bytes[i] += cost.bytes;
        counter.calls[i] += 1;
        drop(counter);
        if let Device::Cpu(device) = self {
            let started = Instant::now();
            work(&device.cpu);
            device.seconds.lock().expect("lock of the times")[i] += started.elapsed().as_secs_f64();
        }
    }

    /// Counts bytes that come from disk.
    pub fn count_read(&self, bytes: usize) {
        self.counter_lock().lock().expect("counter lock").read_bytes += bytes as f64;
    }

    /// Counts bytes that go to disk.
    pub fn count_write(&self, bytes: usize) {
        self.counter_lock().lock().expect("counter lock").write_bytes += bytes as f64;
    }

    pub fn arena(&self) -> &Arc<Arena> {
        match self {
            Device::Cpu(device) => &device.arena,
            Device::Dry(device) => &device.arena,
        }
    }

    pub fn memory(&self) -> MemoryUse {
        self.arena().usage()
    }

    /// What has been counted since the last call.
    pub fn take_counter(&self) -> Counter {
        std::mem::take(&mut *self.counter_lock().lock().expect("counter lock"))
    }

    /// Seconds spent in each kind of work since the last call, in the order of [`Kernel::ALL`]; none on the dry device.
    pub fn take_seconds(&self) -> [f64; Kernel::ALL.len()] {
        match self {
            Device::Cpu(device) => std::mem::take(&mut *device.seconds.lock().expect("lock of the times")),
            Device::Dry(_) => [0.0; Kernel::ALL.len()],
        }
    }

    pub fn is_dry(&self) -> bool {
        matches!(self, Device::Dry(_))
    }

    /// The processor, where there is one.
    pub fn processor(&self) -> Option<&Cpu> {
        match self {
            Device::Cpu(device) => Some(&device.cpu),
            Device::Dry(_) => None,
        }
    }

    fn counter_lock(&self) -> &Mutex<Counter> {
        match self {
            Device::Cpu(device) => &device.counter,
            Device::Dry(device) => &device.counter,
        }
    }
}

impl Cost {
    /// A pass over `elements` elements of `bytes_each` (all operands added up).
    pub fn elementwise(elements: usize, bytes_each: usize) -> Cost {
        Cost { kernel: Kernel::Elementwise, flops: elements as f64, bytes: (elements * bytes_each) as f64 }
    }
}
