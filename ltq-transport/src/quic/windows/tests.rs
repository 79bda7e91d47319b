//! What connections get of the memory that they share.

use super::*;

const MIB: u32 = 1 << 20;
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn there(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

const WANTED: Wanted =
    Wanted { receive: 16 * MIB, send: 16 * MIB, stream: MIB, streams: 16, streams_least: 4 };

/// One that is welcomed as soon as it is there, with what its streams take in.
fn welcome(windows: &Arc<Windows>, from: IpAddr, wanted: Wanted) -> (Share, u32) {
    let promise = windows.promise(from, wanted, true);
    (promise.take(), promise.stream())
}

#[test]
fn promise_9_windows_come_to_no_more_than_is_set_up_and_the_least_of_each_connection() {
    let windows = Windows::new(u64::from(512 * MIB), None);
    let mut shares = Vec::new();
    for _ in 0..7 {
        shares.push(welcome(&windows, HERE, WANTED).0);
    }
    assert!(shares.iter().all(|it| (it.receive, it.send, it.streams) == (16 * MIB, 16 * MIB, 16)));
    assert_eq!(windows.narrowed(), 0);
    let least = held(WINDOW_MIN, WINDOW_MIN, 4);
    let mut large = 0;
    for count in 7..3_000_u64 {
        let (share, _) = welcome(&windows, HERE, WANTED);
        assert!(share.receive >= WINDOW_MIN && share.send >= WINDOW_MIN && share.streams >= 4);
        assert!(share.receive <= shares.last().unwrap().receive);
        large += u32::from(share.receive > WINDOW_MIN);
        shares.push(share);
        let sum: u64 = shares.iter().map(|it| held(it.receive, it.send, it.streams)).sum();
        assert!(sum <= u64::from(512 * MIB) + least * count, "{sum} by {count}");
    }
    assert!((8..=12).contains(&large), "{large}");
    assert_eq!(windows.used(), u64::from(512 * MIB));
    assert_eq!(welcome(&windows, HERE, WANTED).0.taken, 0);
}

#[test]
fn what_a_connection_had_is_free_again_when_it_is_gone() {
    let windows = Windows::new(u64::from(MIB), None);
    let wanted = Wanted { receive: MIB, send: 1_000, ..WANTED };
    let (first, _) = welcome(&windows, HERE, wanted);
    assert_eq!((first.receive, first.send, first.streams), (MIB / 8, 1_000, 4));
    assert_eq!(windows.used(), u64::from(MIB / 8) * 5 / 2 + 1_000 + 4 * STREAM_BYTES);
    let (second, _) = welcome(&windows, HERE, wanted);
    assert!(second.receive < first.receive);
    drop(first);
    assert_eq!(windows.used(), second.taken);
    drop(second);
    assert_eq!(*windows.state.lock(), State::default());
}

#[test]
fn promise_10_one_address_takes_a_quarter_and_no_more() {
    let windows = Windows::new(u64::from(64 * MIB), None);
    let greedy: Vec<_> = (0..500).map(|_| welcome(&windows, there(1), WANTED)).collect();
    assert_eq!(windows.used(), u64::from(16 * MIB));
    let (other, _) = welcome(&windows, there(2), WANTED);
    assert_eq!((other.receive, other.send), (2 * MIB, 2 * MIB));
    drop(greedy);
    assert_eq!(windows.used(), other.taken);
    assert_eq!(welcome(&windows, there(1), WANTED).0.receive, 2 * MIB);
    drop(other);
    assert!(windows.state.lock().by_origin.is_empty());
}

#[test]
fn promise_10_what_one_address_has_can_be_set_and_smaller_windows_are_counted() {
    let windows = Windows::new(u64::from(64 * MIB), Some(u64::from(32 * MIB)));
    let wanted = Wanted { receive: 2 * MIB, send: 2 * MIB, stream: MIB / 2, ..WANTED };
    let (first, stream) = welcome(&windows, there(1), wanted);
    assert_eq!((first.receive, stream, windows.narrowed()), (2 * MIB, MIB / 2, 0));
    let greedy: Vec<_> = (0..500).map(|_| welcome(&windows, there(1), WANTED)).collect();
    assert_eq!((windows.used(), windows.narrowed()), (u64::from(32 * MIB), 500));
    drop(greedy);
}

/// Though many are there before any of them is welcomed.
#[test]
fn promise_10_a_stream_takes_in_a_quarter_of_what_its_connection_does() {
    let windows = Windows::new(u64::from(64 * MIB), None);
    let mut full = 0;
    for crowd in [1, 10, 1_000] {
        let promises: Vec<_> =
            (0..crowd).map(|count| windows.promise(HERE, WANTED, count % 2 == 0)).collect();
        let mut shares = Vec::new();
        for promise in promises {
            let share = promise.take();
            let streams = STREAMS_AT_FULL * promise.stream();
            assert!(streams <= share.receive, "{streams} of {}", share.receive);
            assert!(promise.stream() >= WINDOW_MIN / STREAMS_AT_FULL);
            full += u32::from(promise.stream() > WINDOW_MIN / STREAMS_AT_FULL);
            shares.push(share);
        }
        let least = held(WINDOW_MIN, WINDOW_MIN, 4) * crowd;
        let sum: u64 = shares.iter().map(|it| held(it.receive, it.send, it.streams)).sum();
        assert!(sum <= u64::from(64 * MIB) + least, "{sum} by {crowd}");
    }
    assert!(full > 20, "{full}");
    assert_eq!(*windows.state.lock(), State::default());
}

#[test]
fn promise_10_addresses_that_are_made_up_leave_room_for_those_that_are_not() {
    let windows = Windows::new(u64::from(64 * MIB), None);
    let made_up: Vec<_> =
        (0..200).map(|last| windows.promise(there(last), WANTED, false)).collect();
    let promised = windows.state.lock().all.promised;
    assert!(promised <= u64::from(32 * MIB), "{promised}");
    let least = WINDOW_MIN / STREAMS_AT_FULL;
    assert_eq!(windows.promise(there(201), WANTED, false).stream(), least);
    assert!(windows.promise(there(201), WANTED, true).stream() > 8 * least);
    drop(made_up);
    assert_eq!(*windows.state.lock(), State::default());
}

#[test]
fn promise_9_streams_that_are_accepted_are_counted_while_there_is_room() {
    let windows = Windows::new(u64::from(4 * MIB), None);
    let (mut share, _) = welcome(&windows, HERE, WANTED);
    let before = windows.used();
    share.count(3);
    share.count(2);
    assert_eq!(windows.used(), before + 2 * STREAM_BYTES);
    share.count(10_000);
    let used = windows.used();
    assert!(used <= u64::from(4 * MIB) && used > u64::from(4 * MIB) - STREAM_BYTES, "{used}");
    share.count(0);
    assert_eq!(windows.used(), before);
    share.count(7);
    drop(share);
    assert_eq!(*windows.state.lock(), State::default());
}
