//! What the numbers were taken on.

use std::fs;

use serde::Serialize;

/// A machine, as far as it tells.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs online.
    pub cores: usize,
    /// Frequency governor; `None` where the machine has none to offer.
    pub governor: Option<String>,
    /// Under a hypervisor.
    pub virtualised: bool,
    /// Main memory, in octets.
    pub memory_bytes: u64,
    /// Load average over a minute, before the benchmark began.
    pub load_before: f64,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": "))
                .map(|(_, value)| value.trim().to_owned())
        };
        let memory = read("/proc/meminfo");
        let memory_kib = memory
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse::<u64>().ok());
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            governor: Some(governor.trim().to_owned()).filter(|name| !name.is_empty()),
            virtualised: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            memory_bytes: memory_kib.unwrap_or(0) * 1024,
            load_before: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// One line about it.
    pub fn line(&self) -> String {
        format!(
            "Linux {}, {}, {} CPU{}{}, governor {}, load {:.2} before",
            self.kernel,
            self.cpu,
            self.cores,
            if self.cores == 1 { "" } else { "s" },
            if self.virtualised { ", virtual" } else { "" },
            self.governor.as_deref().unwrap_or("none"),
            self.load_before
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
