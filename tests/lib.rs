//! The end-to-end tests live in the test target `e2e`.
