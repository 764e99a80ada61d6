//! `xcast-ctl`: see [`xcast_ctl::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xcast_ctl::cli::main()
}
