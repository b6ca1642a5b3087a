//! Everything that is tested through the public surface: one binary.

mod population;
