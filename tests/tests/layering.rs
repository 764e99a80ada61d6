//! The project's own source keeps to its layers: no file depends on itself by way of others, and
//! some parts know nothing of some others. See [`tests::layering`] for what counts as a dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::layering::{Graph, Outside, Source};

/// Modules of the standard library with which one does I/O, asks for the time, or waits.
const IO: [&str; 8] = ["env", "fs", "io", "net", "os", "process", "thread", "time"];

/// What `net` has besides sockets: addresses are values.
const ADDRESSES: [&str; 6] = [
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
];

/// Crates with which one does so.
const IO_CRATES: [&str; 7] = [
    "libc",
    "mio",
    "nix",
    "rustix",
    "socket2",
    "tokio",
    "async_std",
];

/// What makes or reads JSON: programs, by way of what prints their answers, and the protocol between
/// verbs and a running router.
const JSON: [(&str, &str); 5] = [
    ("xcast-ctl", "cli"),
    ("xcast-ctl", "tools"),
    ("xcast-ctl", "output"),
    ("xcast-ctl", "control"),
    ("xcast-sim", "cli"),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifest(directory: &str) -> toml::Table {
    let path = workspace().join(directory).join("Cargo.toml");
    let text = fs::read_to_string(&path).expect("a manifest");
    text.parse().expect("a valid manifest")
}

/// All crates of the workspace, by their directory, and what they are made of.
fn crates() -> BTreeMap<String, Vec<Graph>> {
    let manifest = manifest("");
    let members = manifest["workspace"]["members"].as_array();
    let members = members.expect("members of the workspace");
    let names = members.iter().map(|name| name.as_str().expect("a path"));
    names.map(|name| (name.to_owned(), graphs(name))).collect()
}

/// The library and the programs in a directory of the workspace.
fn graphs(directory: &str) -> Vec<Graph> {
    let source = Source::read(&workspace().join(directory).join("src"));
    let source = source.unwrap_or_else(|error| panic!("{directory}/src: {error}"));
    let mut roots: BTreeSet<PathBuf> = source.roots().map(Path::to_owned).collect();
    let manifest = manifest(directory);
    let programs = manifest.get("bin").and_then(toml::Value::as_array);
    let targets = programs.into_iter().flatten().chain(manifest.get("lib"));
    let stated = targets.filter_map(|target| target.get("path")?.as_str());
    roots.extend(stated.map(|path| Path::new(path).strip_prefix("src").expect("in src").into()));
    assert!(
        !roots.is_empty(),
        "{directory} has neither a library nor a program"
    );
    let graphs = roots.iter().map(|root| Graph::new(&source, root));
    graphs
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{directory}/src: {error}"))
}

/// Uses of other crates in a directory of the workspace.
fn outside(directory: &str) -> Vec<Outside> {
    let graphs = graphs(directory);
    let all = graphs.iter().flat_map(Graph::outside);
    all.cloned().collect()
}

/// Fails if anything is wrong, and says what.
fn expect_none(rule: &str, wrong: impl IntoIterator<Item = String>) {
    let list = wrong.into_iter().fold(String::new(), |mut list, line| {
        let _ = write!(list, "\n  {line}");
        list
    });
    assert!(list.is_empty(), "{rule}:{list}");
}

/// Names of the crates that a crate is built from, itself left out; not those of its tests.
fn dependencies(package: &str) -> Vec<String> {
    let output = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "tree",
            "--frozen",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--package", package])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("text");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert_eq!(names.first().map(String::as_str), Some(package));
    names.into_iter().filter(|name| name != package).collect()
}

fn is_product(name: &str) -> bool {
    name.starts_with("xcast-") || name.starts_with("xcast_")
}

#[test]
fn no_file_depends_on_itself_by_way_of_others() {
    let rings = crates().into_iter().flat_map(|(name, graphs)| {
        let rings = graphs.into_iter().flat_map(|graph| graph.rings());
        rings
            .map(|ring| format!("{name}/src: {ring}"))
            .collect::<Vec<_>>()
    });
    expect_none(
        "move what is shared into a file that depends on none of those that share it",
        rings,
    );
}

#[test]
fn sync_and_datapath_do_not_know_each_other() {
    let graphs = graphs("xcast-ctl");
    let wrong = graphs.iter().flat_map(Graph::dependencies).filter(|d| {
        let between = |a, b| d.from.starts_with(a) && d.to.starts_with(b);
        between("sync", "datapath") || between("datapath", "sync")
    });
    expect_none(
        "in xcast-ctl/src, sync and datapath meet in edits and maps, and nowhere else",
        wrong.map(ToString::to_string),
    );
    // The rule is about something.
    for part in ["sync", "datapath"] {
        let mut all = graphs.iter().flat_map(Graph::dependencies);
        assert!(
            all.any(|d| d.from.starts_with(part)),
            "there is no xcast-ctl/src/{part}"
        );
    }
}

#[test]
fn xcast_common_does_no_io() {
    let wrong = outside("xcast-common").into_iter().filter(|used| {
        let part = |number: usize| used.path.get(number).map_or("", String::as_str);
        match part(0) {
            // For hosts and tests; never for what the programs are compiled from.
            "std" if part(1) == "net" && ADDRESSES.contains(&part(2)) => !used.gated,
            "std" => !used.gated || IO.contains(&part(1)),
            "alloc" => true,
            name => IO_CRATES.contains(&name),
        }
    });
    expect_none(
        "xcast-common has no I/O and no clock, and no standard library without a feature",
        wrong.map(|used| used.to_string()),
    );
    let wrong = dependencies("xcast-common")
        .into_iter()
        .filter(|name| IO_CRATES.contains(&name.as_str()));
    expect_none("xcast-common is built from crates that do I/O", wrong);
}

#[test]
fn only_answers_and_the_control_protocol_are_json() {
    let product = crates().into_keys().filter(|name| is_product(name));
    let wrong = product.flat_map(|name| {
        let uses = outside(&name).into_iter().filter(|used| {
            let part = used.file.with_extension("");
            let allowed = JSON
                .iter()
                .any(|(program, json)| name == *program && part.starts_with(json));
            used.path[0] == "serde_json" && !allowed
        });
        uses.map(|used| format!("{name}/src/{used}"))
            .collect::<Vec<_>>()
    });
    expect_none(
        "JSON is for what programs print and for the control protocol; elsewhere, derive serde's traits",
        wrong,
    );
}

#[test]
fn the_library_for_applications_is_small() {
    let wrong = dependencies("xcast-host").into_iter().filter(|name| {
        (is_product(name) && name != "xcast-common") || name == "aya" || name.starts_with("aya-")
    });
    expect_none("xcast-host is built from", wrong);
}

#[test]
fn xtask_builds_without_the_product() {
    let wrong = dependencies("xtask")
        .into_iter()
        .filter(|name| is_product(name));
    expect_none(
        "xtask builds the product, so it is not built from it",
        wrong,
    );
}

/// What an oracle shares with the code under test, it cannot find wrong.
#[test]
fn expectations_share_nothing_with_the_product() {
    let wrong = outside("tests")
        .into_iter()
        .filter(|used| is_product(&used.path[0]));
    expect_none(
        "tests/src is written from the RFC, without the product's code",
        wrong.map(|used| format!("tests/src/{used}")),
    );
    let wrong = dependencies("tests")
        .into_iter()
        .filter(|name| is_product(name));
    expect_none("the product's crates are for tests/tests only", wrong);
}

/// The rings of a made-up crate.
mod made_up {
    use std::path::Path;

    use tests::layering::{Graph, Source, SourceError};

    fn graph(files: &[(&str, &str)]) -> Result<Graph, SourceError> {
        Graph::new(&Source::from_texts(files), Path::new("lib.rs"))
    }

    /// The files of each ring.
    fn rings(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let rings = graph(files).expect("made-up source is right").rings();
        let names = |ring: &tests::layering::Ring| {
            let names = ring.files.iter().map(|file| file.display().to_string());
            names.collect()
        };
        rings.iter().map(names).collect()
    }

    const NONE: [[&str; 0]; 0] = [];

    #[test]
    fn direct() {
        let lib = ("lib.rs", "mod a; mod b;");
        let a = ("a.rs", "use crate::b::B; pub struct A(B);");
        let back = ("b.rs", "use crate::a; pub struct B(Box<a::A>);");
        assert_eq!(rings(&[lib, a, back]), [["a.rs", "b.rs"]]);
        assert_eq!(rings(&[lib, a, ("b.rs", "pub struct B;")]), NONE);
        // A module that is imported and not used, and mentions in text, are no ring.
        let mention = "use crate::a;\n/// Not [`a::A`].\npub struct B;\nconst X: &str = \"a::A\";";
        assert_eq!(rings(&[lib, a, ("b.rs", mention)]), NONE);
    }

    #[test]
    fn with_a_readable_message() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;\npub struct A(B);"),
            ("b.rs", "\nuse crate::c::C;\npub struct B(C);"),
            ("c.rs", "pub struct C(Box<crate::a::A>);\nuse super::d::D;"),
            ("d.rs", "pub struct D;"),
        ];
        let rings = graph(&files).expect("right").rings();
        assert_eq!(rings.len(), 1);
        assert_eq!(
            rings[0].to_string(),
            "3 files depend on each other:\n  \
             a.rs -> b.rs -> c.rs -> a.rs\n    \
             a.rs:1: `crate::b::B`, defined in b.rs\n    \
             b.rs:2: `crate::c::C`, defined in c.rs\n    \
             c.rs:1: `crate::a::A`, defined in a.rs"
        );
    }

    #[test]
    fn every_file_of_a_ring_is_on_a_way() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "pub fn a() { crate::b::b(); crate::c::c() }"),
            ("b.rs", "pub fn b() { crate::a::a() }"),
            ("c.rs", "pub fn c() { crate::a::a() }"),
        ];
        let rings = graph(&files).expect("right").rings();
        assert_eq!(rings.len(), 1);
        assert_eq!(rings[0].ways.len(), 2);
    }

    #[test]
    fn by_a_re_export_of_the_root() {
        let files = [
            (
                "lib.rs",
                "mod a; mod b; pub use a::A; pub use b::{B as Other};",
            ),
            ("a.rs", "pub struct A(crate::Other);"),
            ("b.rs", "use crate::A; pub struct B(Box<A>);"),
        ];
        assert_eq!(rings(&files), [["a.rs", "b.rs"]]);
    }

    #[test]
    fn by_a_face() {
        let lib = ("lib.rs", "mod face; mod user;");
        let face = (
            "face/mod.rs",
            "mod a; pub use self::a::{A, help as assist};",
        );
        let a = (
            "face/a.rs",
            "pub struct A; pub fn help() { crate::user::go() }",
        );
        for call in ["crate::face::assist", "super::face::A::new"] {
            let user = format!("pub fn go() {{ {call}(); }}");
            let files = [lib, face, a, ("user.rs", &user)];
            assert_eq!(rings(&files), [["face/a.rs", "user.rs"]]);
        }
    }

    #[test]
    fn by_a_glob() {
        let lib = ("lib.rs", "mod a; mod b; mod face;");
        let face = ("face.rs", "pub use crate::a::*;");
        let a = ("a.rs", "use crate::b::B; pub struct A(B);");
        let tied = [["a.rs", "b.rs"]];
        for b in [
            "use crate::a::*; pub struct B;",
            "use crate::face::*; pub struct B;",
            "use crate::face::A; pub struct B(Box<A>);",
            "pub struct B(Box<crate::face::A>);",
        ] {
            assert_eq!(rings(&[lib, face, a, ("b.rs", b)]), tied, "{b}");
        }
    }

    #[test]
    fn by_super() {
        let lib = ("lib.rs", "mod parent;");
        let child = (
            "parent/child.rs",
            "use super::Shared; pub struct Child(Shared);",
        );
        let tied = [["parent/child.rs", "parent/mod.rs"]];
        // The parent uses its child: a field, a path, or its own re-export.
        for parent in [
            "mod child; use child::Child; pub struct Shared; struct P(Child);",
            "mod child; pub struct Shared; struct P(child::Child);",
            "mod child; pub use child::Child; pub struct Shared; struct P(Child);",
            "mod child; pub use child::Child; pub struct Shared; m!(Vec<Child>);",
        ] {
            let files = [lib, ("parent/mod.rs", parent), child];
            assert_eq!(rings(&files), tied, "{parent}");
        }
        // It only owns and shows it, or what both use is in a file of its own.
        let owner = "mod child; pub use child::Child; pub struct Shared;";
        assert_eq!(rings(&[lib, ("parent/mod.rs", owner), child]), NONE);
        let face = "mod child; mod shared; use shared::Shared; struct P(child::Child);";
        let shared = ("parent/shared.rs", "pub struct Shared;");
        assert_eq!(rings(&[lib, ("parent/mod.rs", face), child, shared]), NONE);
    }

    #[test]
    fn between_siblings_by_super() {
        let files = [
            ("lib.rs", "mod m;"),
            ("m.rs", "mod a { pub(super) mod deep; } mod b;"),
            ("m/a/deep.rs", "pub fn a() { super::super::b::b() }"),
            (
                "m/b.rs",
                "use super::a::deep::{self, a as other}; pub fn b() { deep::a() }",
            ),
        ];
        assert_eq!(rings(&files), [["m/a/deep.rs", "m/b.rs"]]);
    }

    #[test]
    fn by_macros() {
        let lib = ("lib.rs", "mod a; mod b;");
        let tied = [["a.rs", "b.rs"]];
        for (a, b) in [
            (
                "pub fn a() { println!(\"{}\", crate::b::b()) }",
                "pub fn b() { crate::a::a() }",
            ),
            (
                "macro_rules! m { () => { $crate::b::b() } } pub(crate) use m;",
                "pub fn b() { crate::a::m!() }",
            ),
            (
                "macro_rules! m { () => { use $crate::b::{b}; } } pub(crate) use m; m!();",
                "use crate::a::m; pub fn b() {}",
            ),
            (
                "#[macro_export] macro_rules! m { () => {} } pub fn a() { crate::b::b() }",
                "pub fn b() { crate::m!() }",
            ),
            (
                "things! { pub struct A; } fn a() { crate::b::b() }",
                "pub fn b(_: crate::a::A) {}",
            ),
            (
                "use crate::b; #[derive(Serialize)] struct A { #[serde(with = \"b::hex\")] f: u8 }",
                "use crate::a::A; pub mod hex { pub fn serialize() {} }",
            ),
        ] {
            assert_eq!(rings(&[lib, ("a.rs", a), ("b.rs", b)]), tied, "{a} {b}");
        }
        let files = [
            (
                "lib.rs",
                "macro_rules! m { () => { child::f() } } mod child;",
            ),
            ("child.rs", "pub fn f() { m!() }"),
        ];
        assert_eq!(rings(&files), [["child.rs", "lib.rs"]]);
    }

    #[test]
    fn inside_functions() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "pub fn a() { use crate::b as other; let x = 1; other::b(x) }",
            ),
            ("b.rs", "pub fn b(x: u8) { if x > 0 { crate::a::a() } }"),
        ];
        assert_eq!(rings(&files), [["a.rs", "b.rs"]]);
    }

    #[test]
    fn by_a_file_elsewhere() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            (
                "a/mod.rs",
                "#[path = \"shared/x.rs\"] pub mod a; use crate::b;",
            ),
            ("a/shared/x.rs", "mod deep;"),
            ("a/shared/deep.rs", "fn d() { crate::b::b() }"),
            ("b.rs", "pub fn b() { crate::a::a::deep::d() }"),
        ];
        assert_eq!(rings(&files), [["a/shared/deep.rs", "b.rs"]]);
    }

    #[test]
    fn tests_are_left_out() {
        let lib = ("lib.rs", "mod a; #[cfg(test)] mod fixtures; mod b;");
        let b = ("b.rs", "use crate::a::A; pub struct B(A);");
        for a in [
            "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
            "pub struct A; #[cfg(test)] use crate::b::B;",
            "pub struct A; #[test] fn t() { crate::b::B::new() }",
            "pub struct A; impl A { #[cfg(all(test, unix))] fn t() { crate::b::B::new() } }",
            "pub struct A; m! { #[cfg(test)] fn t() { crate::b::B::new() } }",
        ] {
            assert_eq!(rings(&[lib, ("a.rs", a), b]), NONE, "{a}");
        }
        // A condition that tests alone do not make true is not a test's.
        let a = "pub struct A; #[cfg(any(test, feature = \"x\"))] use crate::b::B;";
        assert_eq!(rings(&[lib, ("a.rs", a), b]), [["a.rs", "b.rs"]]);
    }

    #[test]
    fn what_is_outside() {
        let text = "
            use std::{fs, io::{self, Read as _}};
            use fs::File;
            #[cfg(feature = \"host\")] fn gated() { std::time::Instant::now(); }
            m! { #[cfg(any(test, feature = \"host\"))] pub fn b() -> std::boxed::Box<u8> {} libc::getpid() }
            mod tokio {} use self::tokio as _; use ::tokio::net;
            use libc as c; fn f() { c::fork(); Vec::new(); }";
        let graph = graph(&[("lib.rs", text)]).expect("right");
        let mut found: Vec<_> = graph
            .outside()
            .iter()
            .map(|used| (used.line, used.path.join("::"), used.gated))
            .collect();
        found.sort();
        found.dedup();
        let expected = [
            (2, "std::fs", false),
            (2, "std::io", false),
            (2, "std::io::Read", false),
            (3, "std::fs::File", false),
            (4, "std::time::Instant::now", true),
            (5, "libc::getpid", false),
            (5, "std::boxed::Box", true),
            (6, "tokio::net", false),
            (7, "Vec::new", false),
            (7, "libc", false),
            (7, "libc::fork", false),
        ];
        let expected = expected.map(|(line, path, gated)| (line, path.to_owned(), gated));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let message = |files: &[(&str, &str)]| graph(files).expect_err("wrong").to_string();
        assert_eq!(
            message(&[("lib.rs", "mod a;")]),
            "lib.rs: module a has neither a.rs nor a/mod.rs"
        );
        let elsewhere = message(&[("lib.rs", "#[path = \"no such.rs\"] mod a;")]);
        assert!(
            elsewhere.starts_with("cannot read no such.rs: "),
            "{elsewhere}"
        );
        let syntax = message(&[("lib.rs", "mod a;"), ("a.rs", "\nfn 1() {}")]);
        assert!(syntax.starts_with("a.rs:2: expected"), "{syntax}");
    }
}
