//! Hooks that do something first, and then go on as the function that the program called, with whatever
//! it was given.
//!
//! They save the registers in which functions are given what they are given, and jump to the function
//! with the same registers and the same stack. So it does not matter what arguments there are, or how
//! many (`printf`, `execl`), the function returns to the program and not here, more than once if it
//! likes (`vfork`), and there is nothing of a hook to unwind when a thread is cancelled.

/// Has functions of libc call `first` before. It is given their first argument, as a number.
macro_rules! trampolines {
    ($first:ident: $($name:ident)*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            extern "C" fn go(argument: std::ffi::c_long) -> *mut std::ffi::c_void {
                $first(argument);
                $crate::hooks::thread::address!($name)
            }
            $crate::hooks::trampoline::jump_after!(go);
        }
    )*};
}
pub(super) use trampolines;

/// The body of a function: it calls `go` with its own first argument, and jumps to the address that
/// `go` returns.
#[cfg(target_arch = "x86_64")]
macro_rules! jump_after {
    ($go:ident) => {
        std::arch::naked_asm!(
            ".cfi_startproc",
            // Stays aligned: 192 octets with the return address.
            "sub rsp, 184",
            ".cfi_adjust_cfa_offset 184",
            "mov [rsp + 128], rdi",
            "mov [rsp + 136], rsi",
            "mov [rsp + 144], rdx",
            "mov [rsp + 152], rcx",
            "mov [rsp + 160], r8",
            "mov [rsp + 168], r9",
            // Where the number of arguments varies, AL says whether some are in vector registers.
            "mov [rsp + 176], rax",
            "test al, al",
            "je 2f",
            "movaps [rsp], xmm0",
            "movaps [rsp + 16], xmm1",
            "movaps [rsp + 32], xmm2",
            "movaps [rsp + 48], xmm3",
            "movaps [rsp + 64], xmm4",
            "movaps [rsp + 80], xmm5",
            "movaps [rsp + 96], xmm6",
            "movaps [rsp + 112], xmm7",
            "2:",
            "call {go}",
            "mov r11, rax",
            "mov rax, [rsp + 176]",
            "test al, al",
            "je 3f",
            "movaps xmm0, [rsp]",
            "movaps xmm1, [rsp + 16]",
            "movaps xmm2, [rsp + 32]",
            "movaps xmm3, [rsp + 48]",
            "movaps xmm4, [rsp + 64]",
            "movaps xmm5, [rsp + 80]",
            "movaps xmm6, [rsp + 96]",
            "movaps xmm7, [rsp + 112]",
            "3:",
            "mov rdi, [rsp + 128]",
            "mov rsi, [rsp + 136]",
            "mov rdx, [rsp + 144]",
            "mov rcx, [rsp + 152]",
            "mov r8, [rsp + 160]",
            "mov r9, [rsp + 168]",
            "add rsp, 184",
            ".cfi_adjust_cfa_offset -184",
            "jmp r11",
            ".cfi_endproc",
            go = sym $go,
        )
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! jump_after {
    ($go:ident) => {
        std::arch::naked_asm!(
            ".cfi_startproc",
            // A jump through a pointer may land here.
            "hint #34",
            "stp x29, x30, [sp, #-224]!",
            ".cfi_adjust_cfa_offset 224",
            ".cfi_rel_offset x29, 0",
            ".cfi_rel_offset x30, 8",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "str x8, [sp, #80]",
            "stp q0, q1, [sp, #96]",
            "stp q2, q3, [sp, #128]",
            "stp q4, q5, [sp, #160]",
            "stp q6, q7, [sp, #192]",
            "bl {go}",
            "mov x16, x0",
            "ldp x0, x1, [sp, #16]",
            "ldp x2, x3, [sp, #32]",
            "ldp x4, x5, [sp, #48]",
            "ldp x6, x7, [sp, #64]",
            "ldr x8, [sp, #80]",
            "ldp q0, q1, [sp, #96]",
            "ldp q2, q3, [sp, #128]",
            "ldp q4, q5, [sp, #160]",
            "ldp q6, q7, [sp, #192]",
            "ldp x29, x30, [sp], #224",
            ".cfi_restore x30",
            ".cfi_restore x29",
            ".cfi_adjust_cfa_offset -224",
            "br x16",
            ".cfi_endproc",
            go = sym $go,
        )
    };
}
pub(super) use jump_after;
