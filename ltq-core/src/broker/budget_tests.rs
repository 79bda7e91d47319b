//! Promise 9: what is counted is given back once, and promise 10: whoever waits gets its turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Turn {
    const fn is_waiting(&self) -> bool {
        self.going_on.is_waiting() || self.beginning.is_waiting()
    }
}

/// A task as far as a budget knows it.
struct Task {
    woken: Arc<Woken>,
    waker: Waker,
    turn: Turn,
    partial: Partial,
}

impl Task {
    fn new() -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        Self { woken, waker, turn: Turn::default(), partial: Partial::default() }
    }

    fn tasks(count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::new()).collect()
    }

    fn has_room(&mut self, budget: &Budget) -> bool {
        budget.poll_room(false, &mut self.turn, &Context::from_waker(&self.waker))
            == Poll::Ready(())
    }

    fn may_begin(&mut self, budget: &Budget) -> bool {
        budget.poll_room(true, &mut self.turn, &Context::from_waker(&self.waker)).is_ready()
    }

    fn may_go_on(&self, partials: &Partials) -> bool {
        partials.poll_room(&self.partial, &Context::from_waker(&self.waker)) == Poll::Ready(())
    }

    fn was_woken(&self) -> bool {
        self.woken.0.swap(0, SeqCst) > 0
    }
}

#[test]
fn there_is_room_up_to_the_limit_and_beyond_it_tasks_wait() {
    let budget = Budget::new(10);
    let mut task = Task::new();
    budget.take(10);
    assert!(task.has_room(&budget));
    budget.take(1);
    assert!(!task.has_room(&budget));
    assert!(!task.was_woken());
    budget.give_back(1);
    assert!(task.was_woken());
    assert!(task.has_room(&budget));
    assert!(!task.turn.is_waiting());
    budget.give_back(10);
    assert!(!task.was_woken(), "it waits for nothing");
    assert_eq!(budget.used(), 0);
}

#[test]
fn promise_10_who_has_nothing_in_it_goes_on_up_to_twice_the_limit_and_no_further() {
    let budget = Budget::new(10);
    let (mut publisher, mut consumer) = (Task::new(), Task::new());
    budget.take(20);
    assert!(!publisher.has_room(&budget) && consumer.may_begin(&budget));
    budget.take(1);
    assert!(!consumer.may_begin(&budget));
    budget.give_back(1);
    assert!(consumer.was_woken() && !publisher.was_woken(), "there is room for those who begin");
    assert!(consumer.may_begin(&budget) && !publisher.has_room(&budget));
    budget.give_back(10);
    assert!(publisher.was_woken() && !consumer.was_woken());
    assert!(publisher.has_room(&budget) && consumer.may_begin(&budget));
    assert!(!publisher.turn.is_waiting() && !consumer.turn.is_waiting());
}

#[test]
fn little_room_wakes_the_few_that_waited_longest_and_much_room_wakes_all() {
    let budget = Budget::new(100);
    budget.take(101);
    let mut tasks = Task::tasks(40);
    for task in &mut tasks {
        assert!(!task.has_room(&budget));
    }
    budget.give_back(1);
    let woken: Vec<_> = tasks.iter().map(Task::was_woken).collect();
    assert_eq!(woken.iter().filter(|woken| **woken).count(), WOKEN_AT_ONCE);
    assert!(woken[..WOKEN_AT_ONCE].iter().all(|woken| *woken), "the first ones");
    // One that finds no room after all keeps its place before the others.
    budget.take(1);
    assert!(!tasks[3].has_room(&budget));
    budget.give_back(1);
    assert!(tasks[3].was_woken());
    budget.give_back(50);
    let late = tasks.iter().filter(|task| task.was_woken()).count();
    assert_eq!(late, 40 - WOKEN_AT_ONCE, "all the others");
}

#[test]
fn promise_10_room_that_is_left_is_passed_on_though_nothing_more_is_given_back() {
    let budget = Budget::new(100);
    budget.take(201);
    let mut tasks = Task::tasks(WOKEN_AT_ONCE + 40);
    for task in &mut tasks {
        assert!(!task.may_begin(&budget));
    }
    // The store stands still from here on.
    budget.give_back(1);
    for task in &mut tasks {
        assert!(task.was_woken() && task.may_begin(&budget));
    }
}

#[test]
fn who_has_nothing_in_it_any_more_waits_with_those_who_begin() {
    let budget = Budget::new(10);
    let mut task = Task::new();
    budget.take(25);
    assert!(!task.has_room(&budget));
    assert!(!task.may_begin(&budget));
    assert!(budget.going_on.waiters.lock().is_empty());
    budget.give_back(5);
    assert!(task.was_woken() && task.may_begin(&budget) && !task.turn.is_waiting());
    assert!(budget.beginning.waiters.lock().is_empty());
}

#[test]
fn a_task_that_leaves_is_not_woken_and_takes_no_turn() {
    let budget = Budget::new(0);
    budget.take(1);
    let mut tasks = Task::tasks(3);
    for task in &mut tasks {
        assert!(!task.has_room(&budget));
        assert!(!task.has_room(&budget), "waiting twice is waiting once");
    }
    budget.leave(&mut tasks[0].turn);
    budget.give_back(1);
    assert_eq!(tasks.iter().map(Task::was_woken).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    let budget = Budget::new(0);
    let rounds = 20_000;
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mut task = Task::new();
            for _ in 0..rounds {
                budget.take(1);
                while !task.has_room(&budget) {
                    while !task.was_woken() {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let mut given = 0;
        while given < rounds {
            if budget.used() > 0 {
                budget.give_back(1);
                given += 1;
            }
            std::hint::spin_loop();
        }
        taker.join().unwrap();
    });
    assert_eq!(budget.used(), 0);
}

#[test]
fn beyond_the_limit_only_the_frame_that_began_first_goes_on() {
    let partials = Partials::new(100);
    let mut tasks = Task::tasks(3);
    for task in &mut tasks {
        assert!(task.may_go_on(&partials));
        partials.set(&mut task.partial, 50);
    }
    let may: Vec<_> = tasks.iter().map(|task| task.may_go_on(&partials)).collect();
    assert_eq!(may, [true, false, false]);
    partials.set(&mut tasks[0].partial, 300);
    assert!(tasks[0].may_go_on(&partials));
    assert!(!tasks[1].was_woken());
    // It is complete: there is room for the others.
    partials.set(&mut tasks[0].partial, 0);
    assert_eq!(tasks.iter().map(Task::was_woken).collect::<Vec<_>>(), [false, true, true]);
    assert!(tasks[1].may_go_on(&partials) && tasks[2].may_go_on(&partials));
    partials.set(&mut tasks[1].partial, 0);
    partials.set(&mut tasks[2].partial, 0);
    assert_eq!(partials.state.lock().used, 0);
    assert!(partials.state.lock().frames.is_empty());
}

#[test]
fn when_the_first_is_done_and_it_is_still_too_much_the_next_one_goes_on_alone() {
    let partials = Partials::new(10);
    let mut tasks = Task::tasks(3);
    for task in &mut tasks {
        partials.set(&mut task.partial, 50);
    }
    assert!(!tasks[1].may_go_on(&partials) && !tasks[2].may_go_on(&partials));
    partials.set(&mut tasks[0].partial, 0);
    assert_eq!(tasks.iter().map(Task::was_woken).collect::<Vec<_>>(), [false, true, false]);
    assert!(tasks[1].may_go_on(&partials));
    assert!(!tasks[2].may_go_on(&partials));
}
