//! Panics of code that is not ours.
//!
//! Owns: what is said about them. A panic's message could quote a personal value (`unwrap` on an `Err` prints it), and the
//! standard hook writes it to standard error: while code runs, only the place is kept. Of a panic under seal nothing is
//! said at all: that it happened tells something about the value. Must not know: what the code computes.
//!
//! The hook is the process's. It is put in front of whatever was there, once, and passes on every panic of other threads.

use std::cell::{Cell, RefCell};
use std::panic::PanicHookInfo;
use std::sync::Once;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    Elsewhere,
    InCode,
    UnderSeal,
}

thread_local! {
    static NOW: Cell<Now> = const { Cell::new(Now::Elsewhere) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

static INSTALLED: Once = Once::new();

/// Puts the hook in front of the one that is there.
pub(super) fn keep_quiet() {
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match NOW.get() {
            Now::Elsewhere => before(panic),
            Now::InCode => note(panic),
            Now::UnderSeal => {}
        }));
    });
}

fn note(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
    PLACE.with_borrow_mut(|noted| *noted = place);
}

/// Watches this thread until it ends.
pub(super) struct Watch(Now);

impl Watch {
    /// While code runs.
    pub fn code() -> Self {
        PLACE.set(None);
        Self(NOW.replace(Now::InCode))
    }

    /// While it computes with personal values.
    pub fn seal() -> Self {
        Self(NOW.replace(Now::UnderSeal))
    }

    /// Where it panicked last.
    pub fn end(self) -> String {
        drop(self);
        PLACE.take().unwrap_or_else(|| "an unknown place".to_owned())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        NOW.set(self.0);
    }
}
