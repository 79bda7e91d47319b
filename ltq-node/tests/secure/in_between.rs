//! Somebody on the path, who writes down what passes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use crate::node::{Node, ok};

type Recorded = Arc<Mutex<Vec<u8>>>;

/// Passes connections on, and notes what they carry, both ways.
fn tcp_in_between(to: SocketAddr, recorded: &Recorded) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let recorded = recorded.clone();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            for (mut from, mut into) in [(near, far), back] {
                let recorded = recorded.clone();
                thread::spawn(move || {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from.read(&mut bytes) {
                        recorded.lock().unwrap().extend_from_slice(&bytes[..read]);
                        if into.write_all(&bytes[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    port
}

/// The same for datagrams; each client has a socket of its own behind it.
fn udp_in_between(to: SocketAddr, recorded: &Recorded) -> u16 {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = near.local_addr().unwrap().port();
    let recorded = recorded.clone();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        let mut clients: Vec<(SocketAddr, Arc<UdpSocket>)> = Vec::new();
        loop {
            // A client that is gone answers by an error.
            let Ok((read, from)) = near.recv_from(&mut bytes) else { continue };
            recorded.lock().unwrap().extend_from_slice(&bytes[..read]);
            let known = clients.iter().find(|(client, _)| *client == from);
            let far = match known {
                Some((_, far)) => far.clone(),
                None => {
                    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                    far.connect(to).unwrap();
                    clients.push((from, far.clone()));
                    let (back, near, recorded) = (far.clone(), near.clone(), recorded.clone());
                    thread::spawn(move || {
                        let mut bytes = vec![0; 1 << 16];
                        while let Ok(read) = back.recv(&mut bytes) {
                            recorded.lock().unwrap().extend_from_slice(&bytes[..read]);
                            let _ = near.send_to(&bytes[..read], from);
                        }
                    });
                    far
                }
            };
            let _ = far.send(&bytes[..read]);
        }
    });
    port
}

#[test]
fn nobody_on_the_path_sees_a_message_a_token_or_a_topic() {
    const BODY: &str = "nobody else should ever read this body";
    const TOKEN: &str = "nobody-else-should-have-this-token";
    const TOPIC: &str = "of-no-concern-to-anybody-else";
    let folder = tempfile::tempdir().unwrap();
    let listen = ["tcp", "tls", "quic"].map(|scheme| format!("{scheme}://127.0.0.1:0"));
    let mut arguments = vec!["--dev-tls", "--token", TOKEN];
    listen.iter().for_each(|address| arguments.extend(["--listen", address.as_str()]));
    let mut node = Node::start(folder.path(), &arguments);
    let fingerprint = node.fingerprint();
    for scheme in ["tcp", "tls", "quic"] {
        let recorded = Recorded::default();
        let (_, to) = node.word(&format!("{scheme}://")).split_once("://").unwrap();
        let to = to.parse().unwrap();
        let port = match scheme {
            "quic" => udp_in_between(to, &recorded),
            _ => tcp_in_between(to, &recorded),
        };
        let server = format!("{scheme}://127.0.0.1:{port}");
        let way = ["--server", &server, "--token", TOKEN];
        let way = match scheme {
            "tcp" => way.to_vec(),
            _ => [&way[..], &["--tls-fingerprint", &fingerprint]].concat(),
        };
        ok(&[&way[..], &["pub", TOPIC, BODY]].concat());
        let received = ok(&[&way[..], &["sub", TOPIC, "c", "--count", "1"]].concat());
        assert_eq!(received, format!("{BODY}\n"));
        let recorded = recorded.lock().unwrap();
        assert!(recorded.len() > 2 * BODY.len(), "{scheme}: it did not pass by there");
        for secret in [BODY, TOKEN, TOPIC] {
            let part = &secret.as_bytes()[..12];
            let seen = recorded.windows(part.len()).any(|window| window == part);
            assert_eq!(seen, scheme == "tcp", "{scheme}: {secret}");
        }
    }
}
