//! Panics that nobody else would tell of: a task that panics ends, and whoever talked to it sees a
//! connection that is lost.

use std::{
    cell::RefCell,
    panic::{set_hook, take_hook},
    sync::Once,
};

/// The panics of a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics {
    pub(crate) count: u64,
    /// Where the first one was, and its message.
    pub(crate) first: String,
}

thread_local! {
    static TOLD: RefCell<Panics> = RefCell::default();
}

/// Takes notice from now on, beside what is done at a panic already.
pub(crate) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that is about to end may have given up what is its own.
            let _ = TOLD.try_with(|told| {
                let mut told = told.borrow_mut();
                if told.count == 0 {
                    told.first = panic.to_string().replace('\n', " ");
                }
                told.count += 1;
            });
            before(panic);
        }));
    });
}

/// Those of this thread so far, which is where all of a play happens.
pub(crate) fn told() -> Panics {
    TOLD.with_borrow(Clone::clone)
}
