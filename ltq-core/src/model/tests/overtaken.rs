//! Requests that come behind later ones of the same program.

use crate::{
    ProducerName, RefusalCode, Seat,
    model::{
        Command, Event, Reply,
        producers::Handle,
        testing::{World, producer},
    },
};

/// What everybody is told when a producer asks for the name `p`: its epoch, or why it has none.
fn opens(
    world: &mut World,
    handle: u32,
    epoch: Option<u64>,
    seat: Option<(u8, u64)>,
) -> Vec<(u32, Result<u64, RefusalCode>)> {
    let seat = seat.map(|(number, turn)| Seat { number: [number; 16], turn });
    let name = Some(ProducerName::new("p").unwrap());
    world.event(Event::OpenProducer { producer: producer(handle), name, epoch, seat });
    let told = world.said.drain(..).filter_map(|command| match command {
        Command::Reply { reply: Reply::ProducerOpened { handle, epoch, .. }, .. } => {
            Some((handle, Ok(epoch)))
        }
        Command::Reply { reply: Reply::ProducerRefused { handle, refusal }, .. } => {
            Some((handle, Err(refusal.code)))
        }
        _ => None,
    });
    told.collect()
}

/// What is left in a lost connection may come to the broker behind what was sent over the next one.
#[test]
fn promise_6_a_request_that_was_overtaken_takes_its_name_from_no_later_one() {
    let mut world = World::new();
    let fenced = |handle| (handle, Err(RefusalCode::Fenced));
    let first = opens(&mut world, 1, None, Some((1, 3)));
    let &[(1, Ok(epoch))] = &first[..] else { panic!("{first:?}") };
    // One that asked for a new instance, and one that comes back: both of an earlier connection.
    assert_eq!(opens(&mut world, 2, None, Some((1, 1))), [fenced(2)]);
    assert_eq!(opens(&mut world, 3, Some(epoch), Some((1, 2))), [fenced(3)]);
    world.publish(1, 1, 1);
    assert_eq!(world.topic.producers.handle(producer(1)), Handle::Open(0));
    // Also when its session has ended meanwhile, which its program will find out and come back.
    world.event(Event::SessionEnded { session: producer(1).session });
    world.said.clear();
    assert_eq!(opens(&mut world, 4, None, Some((1, 2))), [fenced(4)]);
    assert_eq!(opens(&mut world, 5, Some(epoch), Some((1, 4))), [(5, Ok(epoch))]);
    // A later one is a newer instance, and so is one of another program, whatever its turn.
    let told = opens(&mut world, 6, None, Some((1, 5)));
    assert!(
        matches!(told[..], [(5, Err(RefusalCode::Fenced)), (6, Ok(newer))] if newer > epoch),
        "{told:?}"
    );
    for (handle, seat) in [(7, Some((2, 1))), (8, None), (9, Some((1, 1)))] {
        let told = opens(&mut world, handle, None, seat);
        assert!(
            matches!(told[..], [(_, Err(RefusalCode::Fenced)), (new, Ok(_))] if new == handle),
            "{told:?}"
        );
    }
}
