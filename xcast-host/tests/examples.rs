//! The examples do what they say, without privileges and without a router.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::UdpSocket, process::Command, time::Duration};

fn run(example: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--package",
            "xcast-host",
            "--example",
            example,
            "--",
        ])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn send() {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let [one, other] = sockets
        .each_ref()
        .map(|socket| socket.local_addr().unwrap().to_string());
    // Port 9 is where nobody listens.
    let statistics = run("send", &["127.0.0.1:9", "hello", &one, &other]);
    assert!(statistics.contains("unicast_packets 2"), "{statistics}");
    for socket in sockets {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut buffer = [0; 10];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn combine() {
    let text = run("combine", &[]);
    for number in 0..3 {
        let line = format!("some news for everyone, and {number}\n");
        assert!(text.contains(&line), "{text}");
    }
    assert!(
        text.contains("partial 2") && text.contains("alone 1"),
        "{text}"
    );
}

#[test]
fn examples_are_short() {
    for example in [
        include_str!("../examples/send.rs"),
        include_str!("../examples/combine.rs"),
    ] {
        assert!(example.lines().count() <= 40);
    }
}
