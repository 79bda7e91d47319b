//! Panics that nobody else would tell of: a task that panics ends, and whoever talked to it sees a
//! connection that is lost.

use std::{
    cell::Cell,
    panic::{set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Counts from now on, beside what is done at a panic already.
pub(crate) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            COUNT.with(|count| count.set(count.get() + 1));
            before(panic);
        }));
    });
}

/// How many there were on this thread, which is where all of a play happens.
pub(crate) fn count() -> u64 {
    COUNT.with(Cell::get)
}
