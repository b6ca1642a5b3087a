//! Why a command did not do what it was told, and the exit code that says so.
//!
//! Owns: exit codes, and the step from an HTTP status to one. Must not know: commands.

use super::problem::Problem;

/// Exit codes of the process, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason without a code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was asked for does not exist.
    NotFound = 3,
    /// The state is not the one expected.
    Conflict = 4,
    /// The key may not do this, or is none.
    Denied = 5,
    /// The server cannot be reached, or cannot serve now.
    Unavailable = 6,
    /// A proof or certificate does not hold.
    Unverified = 7,
}

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// `--explain`: nothing was sent; this is the curl command.
    #[error("{0}")]
    Explained(String),
    /// The server said no.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Reading or writing failed here.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Anything else.
    #[error("{message}")]
    Plain {
        /// The code.
        exit: Exit,
        /// What failed, why, and what to do.
        message: String,
    },
}

impl Failure {
    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Plain { exit: Exit::Usage, message: message.into() }
    }

    /// Failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Plain { exit: Exit::Failed, message: message.into() }
    }

    /// The state is not the one expected.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Plain { exit: Exit::Conflict, message: message.into() }
    }

    /// No server, or not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Plain { exit: Exit::Unavailable, message: message.into() }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Explained(_) => Exit::Ok,
            Self::Problem(problem) => of_status(problem.status),
            Self::Io(_) => Exit::Failed,
            Self::Plain { exit, .. } => *exit,
        }
    }
}

/// The exit code of an HTTP status.
fn of_status(status: u16) -> Exit {
    match status {
        401 | 403 => Exit::Denied,
        404 | 410 => Exit::NotFound,
        409 | 412 | 428 => Exit::Conflict,
        408 | 429 | 502..=504 => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_documented_codes() {
        let codes =
            [(400, 1), (401, 5), (403, 5), (404, 3), (410, 3), (409, 4), (412, 4), (422, 1), (429, 6), (503, 6)];
        for (status, code) in codes {
            assert_eq!(of_status(status) as u8, code, "{status}");
        }
    }
}
