//! A file system in memory with a model of power loss: bytes survive when their file was synced, names when their
//! directory was. What was not synced may survive or not, as a given choice says; a directory's changes survive in the
//! order in which they were made, as on journaling file systems.

use std::{
    collections::BTreeMap,
    io::{self, Error, ErrorKind, Read, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use ounce_train::vfs::{Entry, Kind, Vfs, VfsFile};

/// Clones share the same files.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    nodes: Vec<Node>,
}

#[derive(Clone)]
enum Node {
    File { bytes: Vec<u8>, synced: Vec<u8> },
    Dir { names: BTreeMap<String, usize>, synced: BTreeMap<String, usize>, pending: Vec<Change> },
}

#[derive(Clone)]
enum Change {
    Add(String, usize),
    Remove(String),
    Rename(String, String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Change::Add(name, node) => _ = names.insert(name.clone(), *node),
            Change::Remove(name) => _ = names.remove(name),
            Change::Rename(from, to) => {
                let node = names.remove(from).expect("changes are applied in order");
                names.insert(to.clone(), node);
            }
        }
    }
}

fn error(kind: ErrorKind) -> Error {
    Error::from(kind)
}

impl Memory {
    /// An empty file system.
    pub fn new() -> Memory {
        let memory = Memory::default();
        memory.lock().nodes.push(State::empty_dir());
        memory
    }

    /// An independent copy.
    pub fn fork(&self) -> Memory {
        Memory { state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// Power off and on. `survives` is asked for each change that was not synced: for the bytes of a file whether they are
    /// on disk, and for each change of a directory whether one more of them is.
    pub fn power_loss(&self, mut survives: impl FnMut() -> bool) {
        for node in &mut self.lock().nodes {
            match node {
                Node::File { bytes, synced } => {
                    if *bytes != *synced && !survives() {
                        // A file may also have grown without its data: zeros.
                        let grown = survives();
                        let length = if grown { bytes.len() } else { synced.len() };
                        synced.resize(length, 0);
                        bytes.clone_from(synced);
                    }
                    synced.clone_from(bytes);
                }
                Node::Dir { names, synced, pending } => {
                    for change in pending.drain(..).take_while(|_| survives()) {
                        change.apply(synced);
                    }
                    names.clone_from(synced);
                }
            }
        }
    }

    /// Flips one bit of a file.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.lock();
        let node = state.find(path).unwrap();
        let Node::File { bytes, .. } = &mut state.nodes[node] else { panic!("{} is no file", path.display()) };
        bytes[bit / 8] ^= 1 << (bit % 8);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn empty_dir() -> Node {
        Node::Dir { names: BTreeMap::new(), synced: BTreeMap::new(), pending: vec![] }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        path.iter().try_fold(0, |node, name| match &self.nodes[node] {
            Node::File { .. } => Err(error(ErrorKind::NotADirectory)),
            Node::Dir { names, .. } => names.get(name.to_str().unwrap()).copied().ok_or(error(ErrorKind::NotFound)),
        })
    }

    /// The node of the parent directory, and the last name.
    fn parent(&self, path: &Path) -> io::Result<(usize, String)> {
        let node = self.find(path.parent().unwrap())?;
        Ok((node, path.file_name().unwrap().to_str().unwrap().to_string()))
    }

    fn change(&mut self, dir: usize, change: Change) -> io::Result<()> {
        let Node::Dir { names, pending, .. } = &mut self.nodes[dir] else {
            return Err(error(ErrorKind::NotADirectory));
        };
        change.apply(names);
        pending.push(change);
        Ok(())
    }
}

impl Vfs for Memory {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let (dir, name) = state.parent(path)?;
        if state.find(path).is_ok() {
            return Err(error(ErrorKind::AlreadyExists));
        }
        state.nodes.push(State::empty_dir());
        let node = state.nodes.len() - 1;
        state.change(dir, Change::Add(name, node))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let mut state = self.lock();
        let (dir, name) = state.parent(path)?;
        let node = match state.find(path) {
            Ok(node) => match &mut state.nodes[node] {
                Node::Dir { .. } => return Err(error(ErrorKind::IsADirectory)),
                Node::File { bytes, .. } => {
                    bytes.clear();
                    node
                }
            },
            Err(_) => {
                state.nodes.push(Node::File { bytes: vec![], synced: vec![] });
                let node = state.nodes.len() - 1;
                state.change(dir, Change::Add(name, node))?;
                node
            }
        };
        Ok(Box::new(Open { memory: self.clone(), node }))
    }

    fn append(&self, path: &Path, length: u64) -> io::Result<Box<dyn VfsFile>> {
        let there = self.lock().find(path);
        let Ok(node) = there else { return self.create(path) };
        match &mut self.lock().nodes[node] {
            Node::Dir { .. } => Err(error(ErrorKind::IsADirectory)),
            Node::File { bytes, .. } => {
                bytes.resize(length as usize, 0);
                Ok(Box::new(Open { memory: self.clone(), node }))
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let state = self.lock();
        match &state.nodes[state.find(path)?] {
            Node::File { bytes, .. } => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Node::Dir { .. } => Err(error(ErrorKind::IsADirectory)),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        let Node::Dir { names, .. } = &state.nodes[state.find(dir)?] else {
            return Err(error(ErrorKind::NotADirectory));
        };
        let kind = |node: usize| match &state.nodes[node] {
            Node::File { bytes, .. } => Kind::File { bytes: bytes.len() as u64 },
            Node::Dir { .. } => Kind::Dir,
        };
        Ok(names.iter().map(|(name, &node)| Entry { name: name.clone(), kind: kind(node) }).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let moved = state.find(from)?;
        let ((dir, from), (other, name)) = (state.parent(from)?, state.parent(to)?);
        assert_eq!(dir, other, "the trait promises renames within one directory only");
        if let Ok(there) = state.find(to) {
            match (&state.nodes[moved], &state.nodes[there]) {
                (Node::File { .. }, Node::File { .. }) => {}
                // POSIX also allows an empty directory there; we never rely on it.
                _ => return Err(error(ErrorKind::DirectoryNotEmpty)),
            }
        }
        state.change(dir, Change::Rename(from, name))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.find(path)?;
        let (dir, name) = state.parent(path)?;
        match state.nodes[node] {
            Node::File { .. } => state.change(dir, Change::Remove(name)),
            Node::Dir { .. } => Err(error(ErrorKind::IsADirectory)),
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.find(path)?;
        let (dir, name) = state.parent(path)?;
        match &state.nodes[node] {
            Node::Dir { names, .. } if names.is_empty() => state.change(dir, Change::Remove(name)),
            Node::Dir { .. } => Err(error(ErrorKind::DirectoryNotEmpty)),
            Node::File { .. } => Err(error(ErrorKind::NotADirectory)),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.find(dir)?;
        let Node::Dir { names, synced, pending } = &mut state.nodes[node] else {
            return Err(error(ErrorKind::NotADirectory));
        };
        synced.clone_from(names);
        pending.clear();
        Ok(())
    }
}

struct Open {
    memory: Memory,
    node: usize,
}

impl Write for Open {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let Node::File { bytes, .. } = &mut self.memory.lock().nodes[self.node] else {
            unreachable!("files stay files")
        };
        bytes.extend_from_slice(new);
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl VfsFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        let Node::File { bytes, synced } = &mut self.memory.lock().nodes[self.node] else {
            unreachable!("files stay files")
        };
        synced.clone_from(bytes);
        Ok(())
    }
}
