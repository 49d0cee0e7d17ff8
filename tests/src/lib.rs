//! Tests of several rooms together.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod house;
#[cfg(test)]
mod loops;
