//! What the heap holds, counted at the allocator.
//!
//! Counting is off unless somebody asks, so that rooms which measure time do not pay for it. What is counted is what was
//! taken and given back since: a structure is measured by building it while counting.

use std::{
    alloc::{GlobalAlloc, Layout},
    fs,
    sync::atomic::{AtomicBool, AtomicIsize, Ordering},
};

use mimalloc::MiMalloc;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static HELD: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(held, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the allocator that `copepod` has; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { MiMalloc.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { MiMalloc.realloc(ptr, layout, size) }
    }
}

/// Counts from here on.
pub fn begin() {
    HELD.store(0, Ordering::Relaxed);
    PEAK.store(0, Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
}

pub fn end() {
    IS_COUNTING.store(false, Ordering::Relaxed);
}

/// Bytes taken since `begin` and not given back.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed).max(0) as usize
}

/// The most that was held at once since `begin`, or since the last call.
pub fn peak() -> usize {
    PEAK.swap(HELD.load(Ordering::Relaxed), Ordering::Relaxed).max(0) as usize
}

/// What the kernel says this process occupies, in bytes.
pub fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    kilobytes.unwrap_or(0_usize) * 1024
}
