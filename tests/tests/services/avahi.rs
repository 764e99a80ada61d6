//! avahi-daemon on a host of a testbed, with a message bus of its own, and avahi-browse.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tests::namespace::{self, Namespace};

/// A daemon that tells of a service; it ends with this.
pub struct Avahi {
    namespace: Namespace,
    bus_address: String,
    // In the order in which they end.
    daemon: Child,
    bus: Child,
    _files: TempDir,
}

impl Avahi {
    /// Starts a daemon that tells of one service on one interface.
    pub fn start(
        namespace: Namespace,
        interface: &str,
        name: &str,
        kind: &str,
        text: &str,
    ) -> Result<Self> {
        let files = TempDir::new()?;
        let path = |file: &str| files.path().join(file).display().to_string();
        let bus_address = format!("unix:path={}", path("bus"));
        let bus_config = format!(
            "<busconfig>\n<type>system</type>\n<listen>{bus_address}</listen>\n<auth>EXTERNAL</auth>\n\
             <policy context=\"default\">\n<allow user=\"*\"/>\n<allow own=\"*\"/>\n\
             <allow send_destination=\"*\"/>\n<allow receive_sender=\"*\"/>\n</policy>\n</busconfig>\n"
        );
        fs::write(path("bus.conf"), bus_config)?;
        let config = format!(
            "[server]\nhost-name={}\nallow-interfaces={interface}\n\
             use-ipv4=yes\nuse-ipv6=no\nenable-dbus=yes\n\
             [wide-area]\nenable-wide-area=no\n\
             [publish]\npublish-workstation=no\npublish-hinfo=no\n",
            interface.to_lowercase()
        );
        fs::write(path("avahi.conf"), config)?;
        fs::create_dir(files.path().join("services"))?;
        let service = format!(
            "<?xml version=\"1.0\" standalone='no'?>\n\
             <!DOCTYPE service-group SYSTEM \"avahi-service.dtd\">\n\
             <service-group>\n<name>{name}</name>\n<service>\n<type>{kind}</type>\n<port>{}</port>\n\
             <txt-record>{text}</txt-record>\n</service>\n</service-group>\n",
            super::ldap::PORT
        );
        fs::write(path("services/it.service"), service)?;
        let bus = namespace
            .command("dbus-daemon")
            .args([
                "--nofork",
                "--nopidfile",
                "--config-file",
                &path("bus.conf"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start dbus-daemon")?;
        let mut bus = Ending(Some(bus));
        super::until("the bus is there", || {
            Ok(fs::metadata(path("bus")).map(drop)?)
        })?;
        // `ip netns exec` gives it a view of the file system of its own: paths that are compiled in
        // become those of this test.
        let start = "mount -t tmpfs none /run && mkdir /run/avahi-daemon \
                     && mount --bind \"$1\" /etc/avahi/services \
                     && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --file \"$2\"";
        let daemon = namespace
            .command("sh")
            .args(["-c", start, "sh", &path("services"), &path("avahi.conf")])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &bus_address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start avahi-daemon")?;
        Ok(Self {
            namespace,
            bus_address,
            daemon,
            bus: bus.0.take().context("no bus")?,
            _files: files,
        })
    }

    /// What avahi-browse finds of a type, to be read by programs.
    pub fn browse(&self, kind: &str) -> Result<String> {
        let mut browse: Command = self.namespace.command("avahi-browse");
        browse
            .args(["--terminate", "--parsable", "--resolve", "--no-db-lookup"])
            .arg(kind)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus_address);
        namespace::run(&mut browse, "")
    }
}

impl Drop for Avahi {
    fn drop(&mut self) {
        end(&mut self.daemon);
        end(&mut self.bus);
    }
}

/// A process that ends with this, unless it was taken out.
struct Ending(Option<Child>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended.
    let _ = child.kill();
    let _ = child.wait();
}
