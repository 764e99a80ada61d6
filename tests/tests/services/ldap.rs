//! slapd, and ldapsearch.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::namespace::{self, Namespace};

/// Not the usual one, so that nothing is found by chance.
pub const PORT: u16 = 3890;
const PASSWORD: &str = "let me in";

/// A directory that runs; it ends with this.
pub struct Directory {
    /// Where it is.
    pub uri: String,
    /// The entry that everything is below.
    pub base: String,
    child: Child,
    _files: TempDir,
}

/// What a directory says of itself.
pub fn greeting(name: &str) -> String {
    format!("The directory of {name}")
}

impl Directory {
    /// Starts slapd with a database of its own, and waits until it answers.
    pub fn start(namespace: Namespace, ip: IpAddr, name: &str) -> Result<Self> {
        let files = TempDir::new()?;
        let path = |file: &str| files.path().join(file).display().to_string();
        let base = format!("dc={name},dc=org");
        fs::create_dir(files.path().join("database"))?;
        let config = format!(
            "include /etc/ldap/schema/core.schema\n\
             pidfile {pid}\n\
             modulepath /usr/lib/ldap\n\
             moduleload back_mdb\n\
             database mdb\n\
             directory {database}\n\
             suffix \"{base}\"\n\
             rootdn \"cn=admin,{base}\"\n\
             rootpw \"{PASSWORD}\"\n\
             access to * by users read by * auth\n",
            pid = path("pid"),
            database = path("database"),
        );
        fs::write(path("slapd.conf"), config)?;
        let content = format!(
            "dn: {base}\n\
             objectClass: organization\n\
             objectClass: dcObject\n\
             dc: {name}\n\
             o: {name}\n\
             description: {}\n",
            greeting(name)
        );
        let mut add = namespace.command("/usr/sbin/slapadd");
        namespace::run(add.args(["-f", &path("slapd.conf")]), &content)?;
        let uri = format!("ldap://{}", SocketAddr::new(ip, PORT));
        let child = namespace
            .command("/usr/sbin/slapd")
            .args(["-d", "0", "-f", &path("slapd.conf"), "-h", &uri])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start slapd")?;
        let directory = Self {
            uri,
            base,
            child,
            _files: files,
        };
        super::until("slapd answers", || {
            description(&namespace, &directory.uri, &directory.base)
        })?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Binds to a directory with its password, and reads the description of the base.
pub fn description(namespace: &Namespace, uri: &str, base: &str) -> Result<String> {
    let mut search = namespace.command("ldapsearch");
    search.args([
        "-x",
        "-LLL",
        "-o",
        "ldif-wrap=no",
        "-o",
        "nettimeout=5",
        "-H",
        uri,
    ]);
    search.args(["-D", &format!("cn=admin,{base}"), "-w", PASSWORD]);
    search.args(["-b", base, "-s", "base", "description"]);
    let text = namespace::run(&mut search, "")?;
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix("description: "));
    ensure!(found.is_some(), "no description: {text}");
    Ok(found.unwrap_or_default().to_owned())
}
