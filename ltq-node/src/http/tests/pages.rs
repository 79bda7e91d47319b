//! What web pages make a browser of this machine send.

use super::*;

/// Sends a request with these headers and a `Host`.
async fn ask_for(node: &Node, request: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let head =
        format!("{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: 1\r\n{headers}\r\nx");
    stream.write_all(head.as_bytes()).await.unwrap();
    read(stream).await
}

const PUBLISH: &str = "POST /pub?topic=csrf";
const OWN: &str = "host: localhost:7441\r\n";

#[tokio::test]
async fn promise_10_a_node_that_asks_nobody_for_a_token_does_nothing_for_web_pages() {
    let node = node(|_| ()).await;
    let forbidden = (403, "forbidden".to_owned());
    for request in [PUBLISH, "POST /mpub?topic=csrf", "GET /metrics"] {
        for headers in [
            "host: localhost:7441\r\norigin: http://evil.example\r\ncontent-type: text/plain\r\n",
            "host: 127.0.0.1:7441\r\norigin: null\r\n",
            "host: evil.example\r\n",
            "host: evil.example\r\nauthorization: Bearer anything\r\n",
            "host: localhost.evil.example:7441\r\n",
            "host: 192.0.2.1:7441\r\n",
            "host: localhost:7441\r\nhost: evil.example\r\n",
        ] {
            let answer = ask_for(&node, request, headers).await;
            assert_eq!(answer.refusal(), forbidden, "{request} {headers}");
            assert!(!answer.body.contains("csrf"), "it says nothing of what there is");
        }
        let answer = ask_for(&node, &request.replace(" /", " http://evil.example/"), OWN).await;
        assert_eq!(answer.refusal(), forbidden, "{request}");
    }
    assert_eq!(node.broker().stats().await.topics.len(), 0, "nothing was published");
    for host in ["localhost:7441", "127.0.0.1", "[::1]:7441"] {
        for request in [PUBLISH, "GET /metrics"] {
            let answer = ask_for(&node, request, &format!("host: {host}\r\n")).await;
            assert_eq!(answer.status, 200, "{request} {host}: {}", answer.body);
        }
    }
    // Probes know no names, and learn nothing.
    let answer = ask_for(&node, "GET /readyz", "host: evil.example\r\n").await;
    assert_eq!((answer.status, &*answer.body), (200, "ready\n"));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn who_brings_a_token_may_come_from_anywhere() {
    let node = node(|config| config.token = Some("a token that is long enough".into())).await;
    let token = "authorization: Bearer a token that is long enough\r\n";
    let page = "host: messages.example\r\norigin: https://messages.example\r\n";
    assert_eq!(ask_for(&node, PUBLISH, &format!("{page}{token}")).await.status, 200);
    assert_eq!(ask_for(&node, PUBLISH, page).await.status, 401);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_open_to_a_network_goes_by_any_name_and_serves_no_pages() {
    let node = node(|config| {
        config.http = "0.0.0.0:0".to_owned();
        config.allow_unauthenticated = true;
    })
    .await;
    let port = node.http().unwrap().port();
    let ask = async |headers: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let head = format!(
            "{PUBLISH} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: 1\r\n\r\nx"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        read(stream).await.status
    };
    assert_eq!(ask("host: ltq.internal:7441\r\n").await, 200);
    assert_eq!(ask("host: ltq.internal:7441\r\norigin: http://evil.example\r\n").await, 403);
    node.stop().await.unwrap();
}
