//! Reads, writes and values that the verifier, or LLVM, must not see through.
//!
//! The verifier follows every value that a register can have as a state of its own, and LLVM keeps
//! values in registers where it can. What goes through memory, or through an instruction that the
//! compiler cannot look into, is one unknown value to both. Arithmetic on packet pointers is in
//! [`wire::frame`](crate::wire::frame).
//!
//! A panic of a BPF program is a loop without end: the verifier refuses whatever can reach one.

/// Reads a field that lives in memory, not in a register: to the verifier, every value that a register can
/// have is a state of its own.
#[inline(always)]
pub fn fresh<T: Copy>(field: &T) -> T {
    // SAFETY: a valid reference.
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

/// Writes a field that lives in memory, so that [`fresh`] reads it from there.
#[inline(always)]
pub(crate) fn store<T>(field: &mut T, value: T) {
    // SAFETY: a valid reference.
    unsafe { core::ptr::from_mut(field).write_volatile(value) }
}

/// The same number, about which the compiler knows nothing: it turns a mask it can see through into
/// the branch it stands for.
#[inline(always)]
pub(crate) fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // An instruction it has to be: the kernel refuses two notes on source lines at the same one.
        // SAFETY: copies a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack)) };
        number
    };
    number
}

/// Of every BPF program that uses this crate. It must not be code that never runs in the compiler's eyes, which would
/// remove the check before it as well.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
