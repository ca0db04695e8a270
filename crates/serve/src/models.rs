//! Which models a server has under which names: its base, and adapters beside it that come and go while it runs. It knows no
//! endpoint; files are read on the thread of whoever calls, requests go on meanwhile.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use ounce_engine::{Adapter, AdapterId, Embedding, Engine, Layers, Request};
use ounce_formats::peft;

use crate::app::now;
use crate::desk::{Desk, Ticket, Vectors};
use crate::error::ApiError;
use crate::metrics::escaped;

/// Longest name of an adapter and longest path, bytes.
const MAX_NAME_BYTES: usize = 128;
const MAX_PATH_BYTES: usize = 4096;

/// What may be put beside the base.
#[derive(Clone, Debug)]
pub struct AdapterLimits {
    /// Adapters at a time.
    pub count: usize,
    /// Memory of all of them.
    pub bytes: usize,
    /// Folders whose adapters a client may ask for, absolute.
    pub roots: Vec<PathBuf>,
}

impl Default for AdapterLimits {
    fn default() -> AdapterLimits {
        AdapterLimits { count: 64, bytes: 1 << 30, roots: Vec::new() }
    }
}

/// An adapter that is loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub adapter: AdapterId,
    /// Where it was read.
    pub path: PathBuf,
    /// When, seconds since 1970.
    pub created: u64,
    bytes: usize,
    /// Sequences and inputs that were asked of the name.
    asked: Arc<AtomicU64>,
}

/// Why an adapter is not loaded or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterFault {
    /// No name for a model.
    Name(String),
    Taken(String),
    Unknown(String),
    /// Not in a folder that the operator allows.
    Path(String),
    Full(String),
    /// Everything that is wrong with its files.
    Files(String),
    /// The engine is gone.
    Stopped,
}

impl std::fmt::Display for AdapterFault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            AdapterFault::Taken(name) => write!(f, "there is already a model `{name}`; unload it first"),
            AdapterFault::Unknown(name) => write!(f, "there is no adapter `{name}`"),
            AdapterFault::Name(why) | AdapterFault::Path(why) | AdapterFault::Full(why) | AdapterFault::Files(why) => {
                f.write_str(why)
            }
            AdapterFault::Stopped => f.write_str("the engine has stopped; restart the server"),
        }
    }
}

impl std::error::Error for AdapterFault {}

pub struct Models {
    base: Arc<str>,
    layers: Layers,
    limits: AdapterLimits,
    loaded: RwLock<BTreeMap<Arc<str>, Loaded>>,
    /// Sequences and inputs that were asked of the base.
    asked: AtomicU64,
    /// Held while the set changes, so that its limits hold.
    changing: Mutex<()>,
}

impl Models {
    pub fn new(base: &str, engine: &Engine, limits: AdapterLimits) -> Models {
        let (loaded, changing, asked) = Default::default();
        Models { base: base.into(), layers: engine.layers(), limits, loaded, asked, changing }
    }

    /// The name of the model that a request asks for; one that names none asks for the base.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<str>> {
        let name = name.unwrap_or(&self.base);
        match self.read().get_key_value(name) {
            Some((name, _)) => Some(name.clone()),
            None => (*name == *self.base).then(|| self.base.clone()),
        }
    }

    /// Queues the sequences of a request to the model `name`, as it is now: while they go to the engine, no adapter goes.
    ///
    /// # Errors
    /// 404 for one that has been unloaded meanwhile; as [`Desk::submit`].
    pub fn submit(&self, desk: &Desk, name: &str, n: usize, mut requests: Vec<Request>) -> Result<Ticket, ApiError> {
        let loaded = self.read();
        let adapter = self.adapter(&loaded, name)?;
        requests.iter_mut().for_each(|request| request.adapter = adapter);
        let sequences = requests.len();
        desk.submit(requests, n, self.beside(&loaded, name)).inspect(|_| self.count(&loaded, name, sequences))
    }

    /// The same for inputs to be embedded.
    ///
    /// # Errors
    /// 404 for a model that has been unloaded meanwhile; as [`Desk::embed`].
    pub fn embed(&self, desk: &Desk, name: &str, mut inputs: Vec<Embedding>) -> Result<Vectors, ApiError> {
        let loaded = self.read();
        let adapter = self.adapter(&loaded, name)?;
        inputs.iter_mut().for_each(|input| input.adapter = adapter);
        let n = inputs.len();
        desk.embed(inputs, self.beside(&loaded, name)).inspect(|_| self.count(&loaded, name, n))
    }

    /// The name of an adapter that is there. One on the base itself is the base to everyone.
    fn beside(&self, loaded: &BTreeMap<Arc<str>, Loaded>, name: &str) -> Option<Arc<str>> {
        loaded.get_key_value(name).map(|(name, _)| name.clone()).filter(|_| *name != *self.base)
    }

    fn count(&self, loaded: &BTreeMap<Arc<str>, Loaded>, name: &str, n: usize) {
        let asked = loaded.get(name).map_or(&self.asked, |found| &found.asked);
        asked.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// How much was asked of each name, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let mut out = String::from("# HELP ounce:requests_total Sequences and inputs asked of each model.\n");
        out += "# TYPE ounce:requests_total counter\n";
        let mut line = |name: &str, asked: &AtomicU64| {
            let name = escaped(name);
            let n = asked.load(Ordering::Relaxed);
            out += &format!("ounce:requests_total{{model_name=\"{name}\",engine=\"0\"}} {n}\n");
        };
        let loaded = self.read();
        if !loaded.contains_key(&*self.base) {
            line(&self.base, &self.asked);
        }
        loaded.iter().for_each(|(name, found)| line(name, &found.asked));
        out
    }

    fn adapter(&self, loaded: &BTreeMap<Arc<str>, Loaded>, name: &str) -> Result<Option<AdapterId>, ApiError> {
        match loaded.get(name) {
            Some(found) => Ok(Some(found.adapter)),
            None if *name == *self.base => Ok(None),
            None => Err(ApiError::model(name, &self.base)),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Arc<str>, Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// The adapters with their names, in order.
    pub fn adapters(&self) -> Vec<(Arc<str>, Loaded)> {
        self.read().iter().filter(|(name, _)| **name != self.base).map(|(n, l)| (n.clone(), l.clone())).collect()
    }

    /// See [`crate::App::load_adapter`].
    pub fn load(&self, desk: &Desk, name: Option<&str>, dir: &Path, replace: bool) -> Result<(), AdapterFault> {
        if let Some(name) = name {
            check_name(name)?;
            if *name == *self.base {
                return Err(AdapterFault::Taken(name.into()));
            }
        }
        let name = name.unwrap_or(&self.base);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, held, taken) = {
            let loaded = self.read();
            let others = loaded.iter().filter(|(of, _)| ***of != *name);
            (others.clone().count(), others.map(|(_, l)| l.bytes).sum::<usize>(), loaded.contains_key(name))
        };
        if taken && !replace {
            return Err(AdapterFault::Taken(name.into()));
        }
        if count >= self.limits.count {
            return Err(AdapterFault::Full(format!("there are {count} adapters, as many as this server takes")));
        }
        let room = self.limits.bytes.saturating_sub(held);
        // No type is wider than the f32 that it becomes.
        let files = |e: &dyn std::error::Error| AdapterFault::Files(e.to_string());
        let (config, tensors) = peft::read_adapter_copied(dir, room as u64).map_err(|e| files(&e))?;
        let bytes = Adapter::bytes_of(&tensors);
        if bytes > room {
            let full = format!("the adapter needs {bytes} bytes, and {room} of {} are free", self.limits.bytes);
            return Err(AdapterFault::Full(full));
        }
        let adapter = self.layers.read(&dir.display().to_string(), &config, &tensors).map_err(|e| files(&e))?;
        let id = desk.change(move |engine| engine.load_adapter(adapter)).ok_or(AdapterFault::Stopped)?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let asked = loaded.get(name).map(|old| old.asked.clone()).unwrap_or_default();
        let new = Loaded { adapter: id, path: dir.into(), created: now(), bytes, asked };
        let old = loaded.insert(name.into(), new);
        drop(loaded);
        match old {
            Some(old) => desk.change(move |engine| engine.drop_adapter(old.adapter)).ok_or(AdapterFault::Stopped),
            None => Ok(()),
        }
    }

    /// See [`crate::App::unload_adapter`].
    pub fn unload(&self, desk: &Desk, name: &str) -> Result<(), AdapterFault> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = || AdapterFault::Unknown(name.chars().take(MAX_NAME_BYTES).collect());
        if *name == *self.base {
            return Err(unknown());
        }
        let gone = self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(name).ok_or_else(unknown)?;
        desk.change(move |engine| engine.drop_adapter(gone.adapter)).ok_or(AdapterFault::Stopped)
    }

    /// The folder that a client's path means: one in a folder that the operator allows, by its spelling. A link in there is the
    /// operator's.
    ///
    /// # Errors
    /// Where it is none.
    pub fn allowed(&self, path: &str) -> Result<PathBuf, AdapterFault> {
        let refuse = |why: &str| Err(AdapterFault::Path(format!("lora_path {why}")));
        if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
            return refuse(&format!("must have 1 to {MAX_PATH_BYTES} bytes, none of them 0"));
        }
        let asked = Path::new(path);
        if asked.components().any(|c| c == Component::ParentDir) {
            return refuse("may not lead upwards (`..`)");
        }
        if self.limits.roots.is_empty() {
            return refuse("is in no folder that this server allows: it was started without --adapter-root");
        }
        // A path that is not absolute is meant from here, or from the first folder that has it.
        let here = std::path::absolute(asked).unwrap_or_default();
        let places = std::iter::once(here).chain(self.limits.roots.iter().map(|root| root.join(asked)));
        let inside: Vec<PathBuf> =
            places.filter(|place| self.limits.roots.iter().any(|root| place.starts_with(root))).collect();
        match inside.iter().find(|place| place.is_dir()).or(inside.first()) {
            Some(place) => Ok(place.clone()),
            None => refuse("is in no folder that this server allows"),
        }
    }
}

fn check_name(name: &str) -> Result<(), AdapterFault> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    match !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(plain) {
        true => Ok(()),
        false => Err(AdapterFault::Name(format!(
            "the name of an adapter has 1 to {MAX_NAME_BYTES} bytes and no white space"
        ))),
    }
}
