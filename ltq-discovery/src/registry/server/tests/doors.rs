//! Who gets a place, and what those are told who get none.

use ltq_core::Origin;

use super::*;

fn few(greeting: usize, of_one: usize) -> EntranceSettings {
    EntranceSettings {
        greeting_connections_max: Some(greeting),
        greeting_connections_per_address_max: Some(of_one),
        ..EntranceSettings::default()
    }
}

/// That what it says names the limit.
async fn refused_by(link: &mut Held, limit: Limit) {
    match hear(link).await {
        Ok(Say::Goodbye { code: GoodbyeCode::Full, detail }) => {
            assert!(detail.contains(limit.as_str()), "{detail} does not name {}", limit.as_str());
        }
        other => panic!("{}: {other:?}", limit.as_str()),
    }
}

#[tokio::test(start_paused = true)]
async fn one_address_cannot_take_all_the_places() {
    let settings = RegistryServerSettings {
        connections_max: 5,
        connections_per_address_max: 2,
        ..Default::default()
    };
    let served = serve(settings).await;
    let one = "tcp://192.0.2.1:1";
    let crowd = (served.welcomed_from(one).await, served.welcomed_from(one).await);
    refused_by(&mut served.link_from(one).await, Limit::ConnectionsPerAddress).await;
    // Of one site of IPv6 there are as many as leave others something.
    let mut site = Vec::new();
    for network in 0..2 {
        site.push(served.welcomed_from(&format!("tcp://[2001:db8:1:{network}::1]:1")).await);
    }
    let other = served.welcomed_from("tcp://192.0.2.2:1").await;
    refused_by(&mut served.link_from("tcp://192.0.2.3:1").await, Limit::Connections).await;
    let figures = served.server.figures().entrance;
    assert_eq!((figures.refused_by_address, figures.refused, figures.accepted), (1, 1, 5));
    assert_eq!(served.server.connections(), 5);
    drop((crowd, site, other));
    timeout(Duration::from_secs(20), served.server.0.entrance.deserted()).await.expect("no one");
    assert!(served.server.0.places.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_networks_of_a_site_have_four_shares() {
    let settings = RegistryServerSettings {
        connections_max: 100,
        connections_per_address_max: 1,
        ..Default::default()
    };
    let served = serve(settings).await;
    let of = |site: u8, network: u8| format!("tcp://[2001:db8:{site}:{network}::1]:1");
    let mut there = Vec::new();
    for network in 0..4 {
        there.push(served.welcomed_from(&of(1, network)).await);
    }
    refused_by(&mut served.link_from(&of(1, 4)).await, Limit::ConnectionsPerAddress).await;
    there.push(served.welcomed_from(&of(2, 0)).await);
}

#[tokio::test(start_paused = true)]
async fn those_who_say_no_hello_leave_room_for_those_who_do() {
    let settings = RegistryServerSettings {
        connections_max: 80,
        connections_per_address_max: 70,
        ..Default::default()
    };
    let served = serve(settings).await;
    // Of 80 a quarter, and of those a quarter from one address.
    let one = "tcp://192.0.2.1:1";
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(served.link_from(one).await);
    }
    let limit = Limit::GreetingConnectionsPerAddress;
    refused_by(&mut served.link_from(one).await, limit).await;
    for n in 0..15 {
        silent.push(served.link_from(&format!("tcp://192.0.2.{}:1", 10 + n)).await);
    }
    refused_by(&mut served.link().await, Limit::GreetingConnections).await;
    let figures = served.server.figures().entrance;
    assert_eq!((figures.greeting, figures.refused_greeting), (20, 2));
    // Whoever has said hello is in nobody's way.
    for link in &mut silent {
        say(link, &hello(None)).await;
        assert!(matches!(hear(link).await.unwrap(), Say::Welcome { .. }));
    }
    let mut welcomed = Vec::new();
    for _ in 0..30 {
        welcomed.push(served.welcomed("any").await);
    }
    assert_eq!(served.server.connections(), 50);
    assert_eq!(served.server.figures().entrance.greeting, 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_gives_way_after_a_second_and_who_was_let_in_never() {
    let settings = RegistryServerSettings {
        entrance: few(2, 2),
        hello_timeout: Duration::from_secs(3_600),
        ..Default::default()
    };
    let served = serve(settings).await;
    let mut there = served.welcomed("any").await;
    let mut silent = [served.link().await, served.link().await];
    refused_by(&mut served.link().await, Limit::GreetingConnections).await;
    sleep(Duration::from_secs(1)).await;
    let _late = served.welcomed("any").await;
    refused_by(&mut silent[0], Limit::GreetingConnections).await;
    // The other one may still come in.
    say(&mut silent[1], &hello(None)).await;
    assert!(matches!(hear(&mut silent[1]).await.unwrap(), Say::Welcome { .. }));
    say(&mut there, &Ask::Withdraw).await;
    assert_eq!(hear(&mut there).await.unwrap(), Say::NotAnnounced);
    let figures = served.server.figures().entrance;
    assert_eq!((figures.crowded_out, figures.refused_greeting, figures.greeting), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_too_often_is_told_so_and_comes_in_later() {
    let entrance = EntranceSettings { connections_per_second_max: 1, ..Default::default() };
    let settings = RegistryServerSettings { entrance, ..Default::default() };
    let served = serve(settings).await;
    let one = "tcp://192.0.2.1:1";
    for _ in 0..10 {
        served.welcomed_from(one).await;
    }
    refused_by(&mut served.link_from(one).await, Limit::ConnectionsPerSecond).await;
    served.welcomed_from("tcp://192.0.2.2:1").await;
    // Those of this machine are not counted.
    for _ in 0..20 {
        served.welcomed("any").await;
    }
    sleep(Duration::from_secs(1)).await;
    served.welcomed_from(one).await;
    refused_by(&mut served.link_from(one).await, Limit::ConnectionsPerSecond).await;
    assert_eq!(served.server.figures().entrance.refused_by_rate, 2);
}

#[tokio::test(start_paused = true)]
async fn no_limit_by_address_counts_those_that_are_exempt() {
    let entrance = EntranceSettings {
        connections_per_second_max: 1,
        exempt_addresses: ["10.0.0.0/8".parse().unwrap()].into_iter().collect(),
        ..Default::default()
    };
    let registry = RegistrySettings { watchers_max: 4, ..Default::default() };
    let connections_per_address_max = 1;
    let settings = RegistryServerSettings {
        registry,
        connections_per_address_max,
        entrance,
        ..Default::default()
    };
    let served = serve(settings).await;
    let mut proxied = Vec::new();
    for _ in 0..20 {
        proxied.push(served.welcomed_from("tcp://10.0.0.1:1").await);
    }
    for watch in 0..4 {
        say(&mut proxied[0], &Ask::Watch { watch, interest: Interest::Nodes }).await;
        loop {
            match hear(&mut proxied[0]).await.unwrap() {
                Say::Told { part: Part::Complete, .. } => break,
                Say::Told { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let one = "tcp://192.0.2.1:1";
    let _there = served.welcomed_from(one).await;
    refused_by(&mut served.link_from(one).await, Limit::ConnectionsPerAddress).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_full_registry_is_told_by_which_limit_and_comes_in_later() {
    let served = serve(RegistryServerSettings { connections_max: 1, ..Default::default() }).await;
    let there = served.welcomed("any").await;
    // Sooner than one that says nothing more is gone.
    let builder = Registries::builder(served.network.clone()).registry("in-process://r");
    let registries = builder.patience(Duration::from_secs(1)).build().unwrap();
    let why = registries.watch(&Interest::Nodes).await.map(|_| ()).unwrap_err();
    assert!(matches!(&why, DiscoveryError::Unreachable { .. }), "{why:?}");
    let said = "the registry is full: it has 1 connections, the most by connections_max";
    assert!(why.to_string().contains(said), "{why}");
    drop(there);
    registries.watch(&Interest::Nodes).await.expect("there is a place");
}

#[test]
fn over_a_unix_socket_a_user_has_a_share() {
    let settings = RegistryServerSettings { connections_per_address_max: 1, ..Default::default() };
    let server = RegistryServer::new(settings, &SystemEntropy).unwrap();
    let user = |n: u32| Peer { identity: Some(format!("uid:{n}")), ..peer("unix:///run/ltq#1") };
    let one = |peer: &Peer| Open::one_more(Arc::clone(&server.0), peer);
    let there = one(&user(7)).expect("a place");
    assert_eq!(there.entry.origin(), Origin::of_peer(&user(7)));
    assert_eq!(one(&user(7)).map(drop).unwrap_err().limit, Limit::ConnectionsPerAddress);
    one(&user(8)).expect("another's place");
}

#[test]
fn limits_that_let_nobody_in_are_refused_by_name() {
    let usual = RegistryServerSettings::default;
    let entrance = |connections_per_second_max| EntranceSettings {
        connections_per_second_max,
        ..EntranceSettings::default()
    };
    for (settings, name) in [
        (RegistryServerSettings { connections_max: 0, ..usual() }, "connections_max"),
        (
            RegistryServerSettings { connections_per_address_max: 0, ..usual() },
            "connections_per_address_max",
        ),
        (RegistryServerSettings { addresses_known_max: 0, ..usual() }, "addresses_known_max"),
        (RegistryServerSettings { entrance: few(0, 1), ..usual() }, "greeting_connections_max"),
        (
            RegistryServerSettings { entrance: few(1, 0), ..usual() },
            "greeting_connections_per_address_max",
        ),
        (RegistryServerSettings { entrance: entrance(0), ..usual() }, "connections_per_second_max"),
    ] {
        let error = RegistryServer::new(settings, &SystemEntropy).expect_err(name);
        assert_eq!(error.setting, name);
    }
}
