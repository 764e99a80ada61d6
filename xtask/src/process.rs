//! Running other programs.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Command, ExitCode, ExitStatus, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns what it printed.
///
/// # Errors
///
/// The command cannot be started, or fails; the message has what it wrote to its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start `{name}`"))?;
    check(&name, &output)
}

/// Runs a command to its end, all its output going to our standard error: it is progress, not what
/// our caller asked for.
///
/// # Errors
///
/// The command cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command.stdout(io::stderr()))?;
    if !status.success() {
        bail!("`{}` failed: {status}", name(command));
    }
    Ok(())
}

/// Runs a command to its end, its output going where ours goes, and returns how it ended.
///
/// # Errors
///
/// The command cannot be started.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("failed to start `{}`", name(command)))
}

/// Runs a command to its end, its output going where ours goes, and returns its exit status for ours.
///
/// # Errors
///
/// The command cannot be started, or a signal ends it.
pub fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = status(command)?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(code.clamp(0, 255) as u8)),
        None => bail!("`{}` was ended: {status}", name(command)),
    }
}

/// Runs a command to its end, hands each line of its standard output to `see`, and prints it as well.
///
/// # Errors
///
/// The command cannot be started, or its output cannot be read.
pub fn lines(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let name = name(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{name}`"))?;
    let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
    let mut line = Vec::new();
    while output
        .read_until(b'\n', &mut line)
        .with_context(|| format!("failed to read what `{name}` prints"))?
        > 0
    {
        see(&String::from_utf8_lossy(&line));
        // Whoever does not want the output any longer still wants the result.
        let _ = io::stdout().write_all(&line);
        line.clear();
    }
    child
        .wait()
        .with_context(|| format!("failed to wait for `{name}`"))
}

/// Has iproute2 carry out one command per line, in a namespace or in ours.
///
/// # Errors
///
/// One of the lines fails; those before it were carried out.
pub fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start `ip`; install it with: cargo xtask setup")?;
    if let Some(mut stdin) = child.stdin.take() {
        // Should ip stop early, its message says more than our broken pipe.
        let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child
        .wait_with_output()
        .context("failed to wait for `ip`")?;
    check("ip -batch", &output)
        .with_context(|| format!("failed to configure {}", namespace.unwrap_or("the network")))?;
    Ok(())
}

/// The command as one would type it.
pub fn name(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(name: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{name}` failed ({}): {}",
            output.status,
            message.trim().replace('\n', "; ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
