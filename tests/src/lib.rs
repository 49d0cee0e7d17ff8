//! Tests of several rooms together.

#[cfg(test)]
mod loops;
