//! See the package's other targets.
