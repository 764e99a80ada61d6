//! The modules of a crate: the names that each has, and the paths that its code uses.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Expr, ImplItem, Item, Local, Macro, Meta, TraitItem, UseTree, Visibility,
    visit::{self, Visit},
};

use super::{
    path::{Gate, Usage, UsedPath},
    tokens,
};

/// Why a crate's source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A file is not Rust that `syn` understands.
    #[error("{0}:{line}: {1}", line = .1.span().start().line)]
    Syntax(PathBuf, syn::Error),
    /// `mod name;` in this file, and neither `name.rs` nor `name/mod.rs` where it should be.
    #[error("{0}: module {1} has neither {1}.rs nor {1}/mod.rs")]
    NoFile(PathBuf, String),
}

/// The files of one crate, by path under its `src`.
#[derive(Clone, Debug, Default)]
pub struct Source {
    files: BTreeMap<PathBuf, String>,
    /// Where `#[path]` leads to further ones.
    src: PathBuf,
}

impl Source {
    /// Reads all Rust files under a directory.
    ///
    /// # Errors
    ///
    /// A file or directory cannot be read.
    pub fn read(src: &Path) -> Result<Self, SourceError> {
        let mut files = BTreeMap::new();
        let mut directories = vec![src.to_owned()];
        while let Some(directory) = directories.pop() {
            let failed = |error| SourceError::Read(directory.clone(), error);
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path)
                        .map_err(|error| SourceError::Read(path.clone(), error))?;
                    let name = path.strip_prefix(src).unwrap_or(&path).to_owned();
                    files.insert(name, text);
                }
            }
        }
        Ok(Self {
            files,
            src: src.to_owned(),
        })
    }

    /// Source that is at hand: pairs of path and text.
    pub fn from_texts(texts: &[(&str, &str)]) -> Self {
        let files = texts
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()));
        Self {
            files: files.collect(),
            src: PathBuf::new(),
        }
    }

    /// Files that a library or a program starts with, if Cargo finds them by itself.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        let is_root = |path: &&Path| {
            [Path::new("lib.rs"), Path::new("main.rs")].contains(path)
                || path.parent() == Some(Path::new("bin"))
        };
        self.files.keys().map(PathBuf::as_path).filter(is_root)
    }

    fn text(&self, path: &Path) -> Result<String, SourceError> {
        if let Some(text) = self.files.get(path) {
            return Ok(text.clone());
        }
        let path = self.src.join(path);
        fs::read_to_string(&path).map_err(|error| SourceError::Read(path, error))
    }

    /// The modules of the library or program that starts with `root`, which comes first.
    pub(super) fn modules(&self, root: &Path) -> Result<Vec<Module>, SourceError> {
        let mut reader = Reader {
            source: self,
            modules: Vec::new(),
        };
        reader.file(root, None, PathBuf::new(), false)?;
        let mut modules = reader.modules;
        // `#[macro_export]` puts a macro into the root.
        for module in 0..modules.len() {
            for name in modules[module].exported.clone() {
                let names = modules[0].names.entry(name).or_default();
                names.push(Name::Here(module));
            }
        }
        Ok(modules)
    }
}

/// What a name in a module stands for.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// The child module with this number.
    Module(usize),
    /// Something that is defined in the module with this number.
    Here(usize),
    /// Whatever this path leads to.
    Import(UsedPath),
}

/// A module, in a file of its own or inline.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub file: PathBuf,
    pub parent: Option<usize>,
    pub names: HashMap<String, Vec<Name>>,
    /// Modules and enums of which all names are imported.
    pub globs: Vec<UsedPath>,
    /// Macros that are defined here: modules below may call them without an import.
    pub macros: HashSet<String>,
    /// Macros with `#[macro_export]`.
    exported: Vec<String>,
    /// Something is defined here, by name or by a macro.
    pub defines: bool,
    pub uses: Vec<UsedPath>,
}

struct Reader<'a> {
    source: &'a Source,
    modules: Vec<Module>,
}

impl Reader<'_> {
    /// Reads a file; the files of its child modules are in `directory`.
    fn file(
        &mut self,
        path: &Path,
        parent: Option<usize>,
        directory: PathBuf,
        gated: bool,
    ) -> Result<Option<usize>, SourceError> {
        let file = syn::parse_file(&self.source.text(path)?)
            .map_err(|error| SourceError::Syntax(path.to_owned(), error))?;
        let gate = Gate::of(&file.attrs);
        if gate == Gate::Test {
            return Ok(None);
        }
        let gated = gated || gate == Gate::Feature;
        self.module(path, parent, directory, &file.items, gated)
            .map(Some)
    }

    fn module(
        &mut self,
        path: &Path,
        parent: Option<usize>,
        directory: PathBuf,
        items: &[Item],
        gated: bool,
    ) -> Result<usize, SourceError> {
        let number = self.modules.len();
        self.modules.push(Module::default());
        let mut collector = Collector {
            number,
            module: Module {
                file: path.to_owned(),
                parent,
                ..Module::default()
            },
            children: Vec::new(),
            gated,
        };
        for item in items {
            collector.visit_item(item);
        }
        let Collector {
            mut module,
            children,
            ..
        } = collector;
        for (child, gated) in children {
            let name = child.ident.to_string();
            let below = directory.join(&name);
            let found = if let Some((_, items)) = &child.content {
                Some(self.module(path, Some(number), below, items, gated)?)
            } else if let Some(stated) = stated_path(&child.attrs) {
                let here = path.parent().unwrap_or(Path::new(""));
                let file = here.join(stated);
                let below = file.parent().unwrap_or(here).to_owned();
                self.file(&file, Some(number), below, gated)?
            } else {
                let files = [below.with_extension("rs"), below.join("mod.rs")];
                let Some(file) = files.iter().find(|f| self.source.files.contains_key(*f)) else {
                    return Err(SourceError::NoFile(path.to_owned(), name));
                };
                self.file(&file.clone(), Some(number), below, gated)?
            };
            if let Some(found) = found {
                let names = module.names.entry(name).or_default();
                names.push(Name::Module(found));
            }
        }
        self.modules[number] = module;
        Ok(number)
    }
}

/// The file of a module that says it by `#[path]`.
fn stated_path(attributes: &[Attribute]) -> Option<String> {
    let path = attributes.iter().find(|a| a.path().is_ident("path"))?;
    match &path.meta.require_name_value().ok()?.value {
        Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Fills a module from its items. Imports inside functions count as the module's.
struct Collector {
    number: usize,
    module: Module,
    children: Vec<(syn::ItemMod, bool)>,
    gated: bool,
}

impl Collector {
    /// Visits what has these attributes, unless it is for tests.
    fn within(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        self.gate(Gate::of(attributes), visit);
    }

    fn gate(&mut self, gate: Gate, visit: impl FnOnce(&mut Self)) {
        if gate == Gate::Test {
            return;
        }
        let before = self.gated;
        self.gated |= gate == Gate::Feature;
        visit(self);
        self.gated = before;
    }

    fn path(&mut self, path: &syn::Path, usage: Usage) {
        if let Some(first) = path.segments.first() {
            let segments = path.segments.iter().map(|s| s.ident.to_string()).collect();
            let line = first.ident.span().start().line;
            let path = self.used(segments, path.leading_colon.is_some(), line, usage);
            self.module.uses.push(path);
        }
    }

    fn tokens(&mut self, written: Vec<tokens::Written>) {
        for (gate, what) in written {
            self.gate(gate, |collector| match what {
                tokens::What::Path(mut path) => {
                    path.gated |= collector.gated;
                    collector.module.uses.push(path);
                }
                tokens::What::Use(item) => collector.visit_item_use(&item),
            });
        }
    }

    fn used(&self, segments: Vec<String>, absolute: bool, line: usize, usage: Usage) -> UsedPath {
        UsedPath {
            segments,
            absolute,
            line,
            usage,
            glob: false,
            gated: self.gated,
        }
    }

    fn define(&mut self, name: &syn::Ident) {
        self.module.defines = true;
        let names = self.module.names.entry(name.to_string()).or_default();
        names.push(Name::Here(self.number));
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String], item: &syn::ItemUse) {
        let reexport = !matches!(item.vis, Visibility::Inherited);
        let usage = if reexport {
            Usage::Reexport
        } else {
            Usage::Import
        };
        let absolute = item.leading_colon.is_some();
        let joined = |name: &syn::Ident| {
            let mut path = prefix.to_vec();
            // `use a::{self}` is `use a`.
            if prefix.is_empty() || name != "self" {
                path.push(name.to_string());
            }
            path
        };
        let mut bind = |path: Vec<String>, name: String, span: proc_macro2::Span| {
            let path = self.used(path, absolute, span.start().line, usage);
            self.module.uses.push(path.clone());
            let names = self.module.names.entry(name).or_default();
            names.push(Name::Import(path));
        };
        match tree {
            UseTree::Path(tree) => self.import(&tree.tree, &joined(&tree.ident), item),
            UseTree::Name(tree) => {
                let path = joined(&tree.ident);
                let name = path.last().cloned().unwrap_or_default();
                bind(path, name, tree.ident.span());
            }
            UseTree::Rename(tree) => {
                bind(
                    joined(&tree.ident),
                    tree.rename.to_string(),
                    tree.ident.span(),
                );
            }
            UseTree::Glob(tree) => {
                let line = tree.star_token.spans[0].start().line;
                let mut path = self.used(prefix.to_vec(), absolute, line, usage);
                path.glob = true;
                self.module.globs.push(path.clone());
                self.module.uses.push(path);
            }
            UseTree::Group(tree) => {
                for tree in &tree.items {
                    self.import(tree, prefix, item);
                }
            }
        }
    }
}

fn item_attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn item_name(item: &Item) -> Option<&syn::Ident> {
    Some(match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    })
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        self.within(item_attributes(item), |collector| {
            if let Some(name) = item_name(item) {
                collector.define(name);
            }
            visit::visit_item(collector, item);
        });
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.children.push((item.clone(), self.gated));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[], item);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let line = item.ident.span().start().line;
        let path = self.used(vec![item.ident.to_string()], true, line, Usage::Import);
        self.module.uses.push(path);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        self.module.defines = true;
        if let Some(name) = &item.ident {
            self.define(name);
            self.module.macros.insert(name.to_string());
            if item.attrs.iter().any(|a| a.path().is_ident("macro_export")) {
                self.module.exported.push(name.to_string());
            }
        }
        visit::visit_item_macro(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        self.within(attributes, |c| visit::visit_impl_item(c, item));
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes: &[Attribute] = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            TraitItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        self.within(attributes, |c| visit::visit_trait_item(c, item));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.within(&field.attrs, |c| visit::visit_field(c, field));
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.within(&variant.attrs, |c| visit::visit_variant(c, variant));
    }

    fn visit_local(&mut self, local: &'ast Local) {
        self.within(&local.attrs, |c| visit::visit_local(c, local));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path, Usage::Code);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.path(&call.path, Usage::Macro);
        self.tokens(tokens::paths(call.tokens.clone()));
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        match &attribute.meta {
            Meta::List(list) if list.path.is_ident("serde") => {
                self.tokens(tokens::paths_for_serde(list.tokens.clone()));
            }
            Meta::List(list) => self.tokens(tokens::paths(list.tokens.clone())),
            Meta::NameValue(pair) if !matches!(pair.value, Expr::Lit(_)) => {
                self.visit_expr(&pair.value);
            }
            _ => {}
        }
    }
}
