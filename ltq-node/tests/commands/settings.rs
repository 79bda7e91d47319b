//! What both are told by flags and files, and what they say of it.

use bytes::BytesMut;
use ltq_core::protocol::{Decoder, FRAME_BYTES_MIN, Frame};

use super::*;

#[test]
fn where_nobody_listens_the_user_is_told_what_to_do() {
    let output = ltq(&["--server", "tcp://127.0.0.1:1", "stats"], "");
    assert!(stderr(&output).contains("start ltq-node there"), "{}", stderr(&output));
}

#[test]
fn help_says_what_each_command_does_in_full() {
    for (command, words) in [
        ("pub", "only when every message is confirmed"),
        ("sub", "given back to the channel at once"),
        ("bench", "deletes afterwards"),
        ("bench", "Examples:"),
    ] {
        let output = ltq(&[command, "--help"], "");
        let help = String::from_utf8(output.stdout).unwrap();
        let help: Vec<_> = help.split_whitespace().collect();
        assert!(help.join(" ").contains(words), "{command}: {words:?} is not in its help");
    }
}

#[test]
fn a_bad_configuration_is_named_with_code_2() {
    refused(&["--listen", "ws://127.0.0.1:1"], 2, "tcp://HOST:PORT");
    refused(&["--listen", "tcp://0.0.0.0:0"], 2, "allow_unauthenticated = true");
    refused(&["--store", "memry"], 2, "memory");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ltq.toml");
    std::fs::write(&file, "dta_dir = 1").unwrap();
    refused(&["--config", file.to_str().unwrap()], 2, "data_dir");
}

#[test]
fn print_config_prints_what_would_be_used() {
    let mut command = node_command(&["--durability", "os", "--print-config"]);
    let output = command.env("LTQ_LIMITS_TOPICS_MAX", "7").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["durability = \"os\"", "topics_max = 7", "frame_bytes_max = \"8MiB\""] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let node = Node::start();
    let memory = ["--store", "memory"];
    refused(&[&memory[..], &["--listen", node.server()]].concat(), 1, node.server());
    refused(&[&memory[..], &["--listen", node.server()]].concat(), 1, "place with --listen");
    let http = node.word("http://").trim_start_matches("http://");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ltq-node"));
    clean(&mut command);
    command.args(memory).args(["--listen", "tcp://127.0.0.1:0", "--http", http]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = stderr(&output);
    assert!(words.contains(http) && words.contains("place with --http"), "{words}");
}

#[test]
fn logs_are_as_they_are_asked_for() {
    // What a node logs from its start to its end.
    let logs = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ltq-node"));
        clean(&mut command);
        command.args(["--store", "memory", "--listen", "tcp://127.0.0.1:0", "--http", "off"]);
        // However few descriptors there are: these do, and nothing is said of them.
        command.env("LTQ_LIMITS_CONNECTIONS_MAX", "100");
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut banner = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut banner).unwrap();
        let server = banner.split_whitespace().find(|word| word.starts_with("tcp://")).unwrap();
        assert!(ltq(&["--server", server.trim_end_matches(','), "stats"], "").status.success());
        signal(child.id(), "TERM");
        let output = output(child);
        assert_eq!(output.status.code(), Some(0));
        stderr(&output)
    };
    let human = logs(&[]);
    assert!(human.contains(" INFO ltq_node::node: stopping;"), "{human}");
    assert!(human.contains("stopped cleanly"), "{human}");
    assert!(!human.contains('\u{1b}'), "there is no terminal to show colours: {human:?}");
    assert!(!human.contains("DEBUG"), "{human}");
    assert!(logs(&["--log-level", "debug"]).contains("DEBUG"));
    assert_eq!(logs(&["--log-level", "error"]), "");
    for line in logs(&["--log-format", "json"]).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(line["level"], "INFO");
    }
}

#[test]
fn a_heartbeat_is_asked_for_within_what_nodes_take() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("tcp://{}", listener.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (decoder, mut bytes) = (Decoder::new(FRAME_BYTES_MIN), BytesMut::new());
        loop {
            if let Some(frame) = decoder.decode(&mut bytes).unwrap() {
                return frame;
            }
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "it ended before it said hello");
            bytes.extend_from_slice(&buffer[..count]);
        }
    });
    let output = ltq(&["--server", &server, "--heartbeat", "1500ms", "stats"], "");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let Frame::Hello(hello) = heard.join().unwrap() else { panic!("no hello") };
    assert_eq!(hello.heartbeat_ms, 1_500);
    for wrong in ["0s", "99ms", "31s", "often"] {
        let output = ltq(&["--server", &server, "--heartbeat", wrong, "stats"], "");
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", stderr(&output));
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("tcp://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let output = ltq(&["--server", &server, "--timeout", "300ms", "stats"], "");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&server), "{}", stderr(&output));
    let took = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(9)).contains(&took), "{took:?}");
}

#[test]
fn credit_is_how_many_are_on_their_way() {
    let node = Node::start();
    let line = "x".repeat(300_000);
    node.ok(&["pub", "t"], format!("{line}\n").repeat(9));
    // Nobody reads what it prints, so it acks nothing.
    let (mut child, out) = subscriber(&node, &["--credit", "2"]);
    let begun = Instant::now();
    loop {
        let shown = node.json(&["topic", "show", "t"]);
        let channel = &shown["channels"][0];
        if (&channel["in_flight"], &channel["waiting"]) == (&2.into(), &7.into()) {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{channel}");
    }
    drop(out);
    assert_eq!(within_deadline(&mut child).code(), Some(0));
}
