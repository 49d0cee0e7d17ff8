//! Shows a program another time of day than the machine's, for tests of clocks: a library to be preloaded (`ld.so(8)`).
//!
//! The file that `COPEPOD_TEST_CLOCK` names says how many seconds the clock is ahead. It is read with each look at the
//! clock, so that the clock of a program that runs can be set, as real ones are: how long something takes can still be told.
//! Nothing is shared between programs, and no lock is held that a killed one could leave behind.

use std::ffi::{c_int, c_long};

#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: c_long = 113;

const REALTIME: c_int = 0;
const REALTIME_COARSE: c_int = 5;

#[repr(C)]
pub struct Time {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// `clock_gettime(2)`.
///
/// # Safety
///
/// As there: `time` points to room for the time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Time) -> c_int {
    // SAFETY: what the caller promises is what the kernel asks for.
    let outcome = unsafe { syscall(CLOCK_GETTIME, clock, time) };
    if outcome == 0 && (clock == REALTIME || clock == REALTIME_COARSE) {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).seconds += ahead() };
    }
    outcome as c_int
}

/// In seconds; not at all where nothing can be read, as while the file is being written.
fn ahead() -> i64 {
    let file = std::env::var_os("COPEPOD_TEST_CLOCK");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
