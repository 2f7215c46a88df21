//! What the allocator does with room that is free.

/// Up to this much free memory at the end of a worker's heap is kept, octets.
#[cfg(target_env = "gnu")]
const KEPT: std::ffi::c_int = 8 << 20;
/// Anything larger is mapped for itself, octets.
#[cfg(target_env = "gnu")]
const MAPPED: std::ffi::c_int = 1 << 20;

/// Keeps glibc from giving the memory of a body's buffer back to the system whenever it is free for a moment: it would be
/// taken again at once, page fault by page fault, which is half of the cost of a large answer. Call it before
/// workers start. Other allocators (musl's) are left as they are.
pub fn keep_buffers_mapped() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: mallopt(3) takes two numbers, touches nothing of ours, and is safe to call from any thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        // Saying the first stops glibc from finding this one by itself.
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

/// Gives free memory back to the system, also from between what is in use, where the allocator keeps it for ever
/// otherwise. Threads that allocate may wait for that, for some milliseconds: it is for a process that is short of memory.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim(3) takes a number, touches only what is free, and is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
