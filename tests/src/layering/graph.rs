//! Which file of a crate depends on which, and the rings in that.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    fmt,
    path::{Path, PathBuf},
};

use super::{
    path::{Usage, UsedPath},
    source::{Module, Name, Source, SourceError},
};

/// A file uses what another one of the same crate defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// The file that uses it.
    pub from: PathBuf,
    /// The file that defines it.
    pub to: PathBuf,
    /// Line in `from`, counted from 1.
    pub line: usize,
    /// What is used, as it is written there.
    pub path: String,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            line,
            path,
        } = self;
        let (from, to) = (from.display(), to.display());
        write!(f, "{from}:{line}: `{path}`, defined in {to}")
    }
}

/// A file uses something from outside of its crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The file.
    pub file: PathBuf,
    /// Line in it, counted from 1.
    pub line: usize,
    /// What is used; the first segment is the other crate's name, as code spells it.
    pub path: Vec<String>,
    /// Compiled with some feature, or in tests, only.
    pub gated: bool,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.join("::");
        write!(f, "{}:{}: `{path}`", self.file.display(), self.line)
    }
}

/// Files that depend on each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// All of them: from each, dependencies lead to each other one.
    pub files: Vec<PathBuf>,
    /// Ways round, as short as they can be; every file is on one of them.
    pub ways: Vec<Vec<Dependency>>,
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files depend on each other:", self.files.len())?;
        for way in &self.ways {
            write!(f, "\n  ")?;
            for dependency in way {
                write!(f, "{} -> ", dependency.from.display())?;
            }
            if let Some(first) = way.first() {
                write!(f, "{}", first.from.display())?;
            }
            for dependency in way {
                write!(f, "\n    {dependency}")?;
            }
        }
        Ok(())
    }
}

/// All dependencies of one library or program.
#[derive(Debug)]
pub struct Graph {
    /// The first one from each file to each other.
    edges: BTreeMap<PathBuf, BTreeMap<PathBuf, Dependency>>,
    outside: Vec<Outside>,
}

impl Graph {
    /// Reads what starts with the file `root` of the source.
    ///
    /// # Errors
    ///
    /// The source cannot be parsed, or a module's file is missing.
    pub fn new(source: &Source, root: &Path) -> Result<Self, SourceError> {
        let modules = Modules(source.modules(root)?);
        let mut graph = Self {
            edges: BTreeMap::new(),
            outside: Vec::new(),
        };
        for (number, module) in modules.0.iter().enumerate() {
            for path in &module.uses {
                graph.add(&modules, number, path);
            }
        }
        Ok(graph)
    }

    fn add(&mut self, modules: &Modules, user: usize, path: &UsedPath) {
        let from = &modules.0[user].file;
        let mut definers = BTreeSet::new();
        for found in modules.resolve(user, path) {
            match found {
                Found::Thing(module) => {
                    definers.insert(module);
                }
                Found::Module(module) if path.glob => {
                    modules.definers(module, &mut definers, &mut HashSet::new());
                }
                Found::Module(_) => {}
                Found::Outside(outside) => self.outside.push(Outside {
                    file: from.clone(),
                    line: path.line,
                    path: outside,
                    gated: path.gated,
                }),
            }
        }
        if path.usage == Usage::Reexport {
            return;
        }
        for module in definers {
            let to = &modules.0[module].file;
            if to == from {
                continue;
            }
            let mut text = path.segments.join("::");
            if path.glob {
                text += "::*";
            }
            let dependency = Dependency {
                from: from.clone(),
                to: to.clone(),
                line: path.line,
                path: text,
            };
            let edges = self.edges.entry(from.clone()).or_default();
            let known = edges.entry(to.clone()).or_insert(dependency.clone());
            if dependency.line < known.line {
                *known = dependency;
            }
        }
    }

    /// All dependencies between files, one for each pair.
    pub fn dependencies(&self) -> impl Iterator<Item = &Dependency> {
        self.edges.values().flat_map(BTreeMap::values)
    }

    /// Uses of other crates, of the standard library too.
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// All rings: none has a file in common with another.
    pub fn rings(&self) -> Vec<Ring> {
        let reach: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = self
            .edges
            .keys()
            .map(|file| (file, self.reachable(file)))
            .collect();
        let mut rings = Vec::new();
        let mut seen = BTreeSet::new();
        for (file, reached) in &reach {
            if seen.contains(file) || !reached.contains(file) {
                continue;
            }
            let back = |other: &&&PathBuf| reach.get(**other).is_some_and(|r| r.contains(file));
            let files: Vec<&PathBuf> = reached.iter().filter(back).copied().collect();
            seen.extend(files.iter().copied());
            rings.push(Ring {
                ways: self.ways(&files),
                files: files.into_iter().cloned().collect(),
            });
        }
        rings
    }

    fn reachable<'a>(&'a self, file: &'a PathBuf) -> BTreeSet<&'a PathBuf> {
        let mut reached = BTreeSet::new();
        let mut left = vec![file];
        while let Some(file) = left.pop() {
            for next in self.edges.get(file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(next) {
                    left.push(next);
                }
            }
        }
        reached
    }

    /// Shortest ways round, until every file is on one.
    fn ways(&self, files: &[&PathBuf]) -> Vec<Vec<Dependency>> {
        let mut shortest: Vec<_> = files.iter().map(|file| self.way_round(file)).collect();
        shortest.sort_by_key(Vec::len);
        let mut covered = BTreeSet::new();
        let mut ways = Vec::new();
        for way in shortest {
            // The first file of a way is the one it was sought for.
            if way.first().is_some_and(|d| !covered.contains(&d.from)) {
                covered.extend(way.iter().map(|dependency| dependency.from.clone()));
                ways.push(way);
            }
        }
        ways
    }

    /// A shortest way from a file back to it; empty if there is none.
    fn way_round(&self, start: &PathBuf) -> Vec<Dependency> {
        let mut queue = VecDeque::from([(start, Vec::new())]);
        let mut seen = BTreeSet::new();
        while let Some((file, way)) = queue.pop_front() {
            for (next, dependency) in self.edges.get(file).into_iter().flatten() {
                if !seen.insert(next) {
                    continue;
                }
                let mut way = way.clone();
                way.push(dependency.clone());
                if next == start {
                    return way;
                }
                queue.push_back((next, way));
            }
        }
        Vec::new()
    }
}

/// What a path leads to. A name may stand for several things, in namespaces of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// Something that this module defines.
    Thing(usize),
    Outside(Vec<String>),
}

/// The modules of one crate, by number; the first one is its root.
struct Modules(Vec<Module>);

/// Names that are being looked up: an import may lead back to its own name.
type Pending = HashSet<(usize, String)>;

impl Modules {
    fn resolve(&self, user: usize, path: &UsedPath) -> Vec<Found> {
        let found = self.follow(user, path, &mut Pending::new());
        if found.is_empty() && path.usage == Usage::Macro && path.segments.len() == 1 {
            return self.macro_above(user, &path.segments[0]);
        }
        found
    }

    /// A macro of a module above may be called without an import.
    fn macro_above(&self, user: usize, name: &str) -> Vec<Found> {
        let mut module = Some(user);
        while let Some(number) = module {
            if self.0[number].macros.contains(name) {
                return vec![Found::Thing(number)];
            }
            module = self.0[number].parent;
        }
        Vec::new()
    }

    fn follow(&self, user: usize, path: &UsedPath, pending: &mut Pending) -> Vec<Found> {
        let outside = || vec![Found::Outside(path.segments.clone())];
        if path.absolute {
            return outside();
        }
        let Some((first, mut rest)) = path.segments.split_first() else {
            return Vec::new();
        };
        let mut found = match first.as_str() {
            "crate" => vec![Found::Module(0)],
            "self" => vec![Found::Module(user)],
            "super" => self.parent(user),
            name => self.look_up(user, name, pending),
        };
        if found.is_empty() {
            // One word of code may be a local name, or one of the prelude.
            let is_word = rest.is_empty() && matches!(path.usage, Usage::Code | Usage::Macro);
            return if is_word { Vec::new() } else { outside() };
        }
        while let Some((name, further)) = rest.split_first() {
            found = self.step(&found, name, pending);
            rest = further;
        }
        found
    }

    fn parent(&self, module: usize) -> Vec<Found> {
        let parent = self.0[module].parent;
        parent.map(Found::Module).into_iter().collect()
    }

    /// What a name is in any of these.
    fn step(&self, places: &[Found], name: &str, pending: &mut Pending) -> Vec<Found> {
        let mut found = Vec::new();
        let mut otherwise = Vec::new();
        for place in places {
            match place {
                Found::Module(module) if name == "super" => found.extend(self.parent(*module)),
                Found::Module(module) => {
                    found.extend(self.look_up(*module, name, pending));
                    // Made by a macro, since the code compiles.
                    otherwise.push(Found::Thing(*module));
                }
                Found::Outside(path) => {
                    let mut path = path.clone();
                    path.push(name.to_owned());
                    found.push(Found::Outside(path));
                }
                // A variant, or an associated item.
                Found::Thing(_) => otherwise.insert(0, place.clone()),
            }
        }
        if found.is_empty() {
            found.extend(otherwise.into_iter().next());
        }
        found
    }

    fn look_up(&self, module: usize, name: &str, pending: &mut Pending) -> Vec<Found> {
        let key = (module, name.to_owned());
        if !pending.insert(key.clone()) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for binding in self.0[module].names.get(name).into_iter().flatten() {
            match binding {
                Name::Module(child) => found.push(Found::Module(*child)),
                Name::Here(module) => found.push(Found::Thing(*module)),
                Name::Import(path) => found.extend(self.follow(module, path, pending)),
            }
        }
        if found.is_empty() {
            for glob in &self.0[module].globs {
                for place in self.follow(module, glob, pending) {
                    if let Found::Module(place) = place {
                        found.extend(self.look_up(place, name, pending));
                    }
                }
            }
        }
        pending.remove(&key);
        found
    }

    /// Modules that define what a glob of this one brings in.
    fn definers(&self, module: usize, definers: &mut BTreeSet<usize>, seen: &mut HashSet<usize>) {
        if !seen.insert(module) {
            return;
        }
        if self.0[module].defines {
            definers.insert(module);
        }
        for path in &self.0[module].uses {
            if path.usage != Usage::Reexport {
                continue;
            }
            for found in self.resolve(module, path) {
                match found {
                    Found::Thing(thing) => {
                        definers.insert(thing);
                    }
                    Found::Module(other) if path.glob => self.definers(other, definers, seen),
                    Found::Module(_) | Found::Outside(_) => {}
                }
            }
        }
    }
}
