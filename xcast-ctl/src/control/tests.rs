//! Both ends together.

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::{
    Connection, ControlError, ExplainRequest, Page, Request, Response, Server, ask,
    server::REQUEST_TIMEOUT, socket,
};
use crate::report::{self, Explain, Path, Route, Stats, Status};

/// Answers like a router, in a thread of its own, until it is told to stop.
fn fake_daemon(interface: &'static str) -> thread::JoinHandle<()> {
    let (started, start) = std::sync::mpsc::channel();
    let daemon = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::bind(interface).unwrap();
            let (sender, mut calls) = mpsc::channel(1);
            let (_readers, told) = watch::channel(None);
            tokio::spawn(server.serve(sender, told));
            started.send(()).unwrap();
            while let Some(call) = calls.recv().await {
                let stop = call.request == Request::Stop;
                let _ = call.reply.send(respond(call.request));
                if stop {
                    // The answer has to leave; detaching takes longer than this, too.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
            }
        });
    });
    start.recv().unwrap();
    daemon
}

fn respond(request: Request) -> Response {
    match request {
        Request::Stats => Response::Stats(Stats::new(Vec::new())),
        Request::Routes { limit, .. } => {
            let route = Route {
                prefix: "10.0.0.0/8".parse().unwrap(),
                next_hop: 3,
                kind: "forward".into(),
                via: None,
                device: None,
                table: None,
                why: "because ".repeat(1000),
            };
            Response::Routes(Page::of(std::iter::repeat_n(route, 1000), limit))
        }
        Request::Explain(request) => Response::Explain(Explain {
            copies: Vec::new(),
            skipped: request
                .destinations
                .into_iter()
                .map(|destination| report::Skipped {
                    destination,
                    why: request.source.to_string(),
                })
                .collect(),
            path: Path::None,
            arrivals: Vec::new(),
        }),
        Request::Status => Response::Status(Box::new(Status::example())),
        Request::Stop => Response::Stopping,
        _ => Response::Error("not now".into()),
    }
}

#[test]
fn requests_and_responses_go_round() {
    let name = "test-round";
    assert!(matches!(
        ask(name, &Request::Status),
        Err(ControlError::NotRunning(_))
    ));
    let daemon = fake_daemon(name);
    assert_eq!(ask(name, &Request::Stats).unwrap(), respond(Request::Stats));
    let limited = Request::Routes {
        after: None,
        limit: Some(2),
        ipv6: None,
    };
    assert_eq!(ask(name, &limited).unwrap(), respond(limited));
    // Much more than a socket buffer holds.
    let all = Request::Routes {
        after: None,
        limit: None,
        ipv6: None,
    };
    let mut connection = Connection::open(name).unwrap();
    // Again and again on one connection.
    for _ in 0..3 {
        let Response::Routes(page) = connection.ask(&all).unwrap() else {
            panic!("no routes");
        };
        assert_eq!((page.rows.len(), page.more), (Page::<Route>::ROWS, true));
    }
    let explain = Request::Explain(ExplainRequest {
        ingress: Some("eth0".into()),
        source: IpAddr::from([10, 0, 0, 1]),
        destinations: vec!["10.0.0.2:5".parse().unwrap(); 127],
        x: true,
        length: Some(1500),
    });
    assert_eq!(ask(name, &explain).unwrap(), respond(explain));
    assert_eq!(
        ask(name, &Request::Status).unwrap(),
        respond(Request::Status)
    );
    let error = ask(name, &Request::Ports).unwrap_err();
    assert_eq!(error.to_string(), "not now");
    assert_eq!(ask(name, &Request::Stop).unwrap(), Response::Stopping);
    daemon.join().unwrap();
    let error = ask(name, &Request::Status).unwrap_err().to_string();
    assert!(
        error.contains("@xcast/test-round") && error.contains("xcast-ctl run"),
        "{error}"
    );
}

#[test]
fn a_second_router_is_refused() {
    let name = "test-second";
    let daemon = fake_daemon(name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let error = Server::bind(name).unwrap_err();
    assert!(matches!(error, ControlError::Running(_)), "{error}");
    ask(name, &Request::Stop).unwrap();
    daemon.join().unwrap();
}

#[test]
fn bad_and_slow_clients_do_not_stall_others() {
    let name = "test-clients";
    let daemon = fake_daemon(name);
    let connect = || {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(socket::name(name)).unwrap())
            .unwrap()
    };
    // One says nothing, one reads nothing, one talks nonsense, one does not stop talking.
    let _silent = connect();
    let mut deaf = connect();
    deaf.write_all(b"{\"request\":\"routes\"}\n").unwrap();
    for nonsense in [
        &b"hello\n"[..],
        b"{\"request\":\"dance\"}\n",
        &vec![b'x'; 200_000],
    ] {
        let mut client = connect();
        // It may be cut off before it has said everything.
        let _ = client.write_all(nonsense);
        let mut answer = String::new();
        if client.read_to_string(&mut answer).is_ok() {
            assert!(answer.contains("not a request"), "{answer}");
        }
    }
    let started = Instant::now();
    ask(name, &Request::Stats).unwrap();
    assert!(started.elapsed() < REQUEST_TIMEOUT);
    ask(name, &Request::Stop).unwrap();
    daemon.join().unwrap();
}
