//! An XDP context as a frame.

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use xcast_common::wire::frame::{Frame, View};

/// The frame a program runs on.
pub struct XdpFrame {
    ctx: *mut xdp_md,
}

impl XdpFrame {
    /// Takes the context over.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// The same, in a function of its own.
    #[inline(always)]
    pub fn of(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// What such a function gets.
    #[inline(always)]
    pub fn ctx(&self) -> *mut xdp_md {
        self.ctx
    }

    /// Index of the interface the frame arrived on.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// Index of the interface the frame is about to leave by; device-map programs only.
    #[inline(always)]
    pub fn egress_ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).egress_ifindex }
    }

    /// Removes metadata that somebody else left in front of the frame: it would cross a veth pair with the copies.
    #[inline(always)]
    pub fn strip_metadata(&mut self) -> bool {
        // SAFETY: the kernel passes a valid context.
        let (start, end) = unsafe { ((*self.ctx).data_meta, (*self.ctx).data) };
        let len = end.wrapping_sub(start) as i32;
        // SAFETY: the kernel passes a valid context.
        len == 0 || unsafe { bpf_xdp_adjust_meta(self.ctx, len) } == 0
    }
}

impl EbpfContext for XdpFrame {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.cast()
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn view(&mut self) -> View<'_> {
        // SAFETY: the kernel passes a valid context; the frame is not moved while it is borrowed.
        unsafe {
            View::new(
                (*self.ctx).data as usize as *mut u8,
                (*self.ctx).data_end as usize as *mut u8,
            )
        }
    }

    #[inline(always)]
    fn adjust_head(&mut self, octets: i32) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { bpf_xdp_adjust_head(self.ctx, octets) == 0 }
    }

    #[inline(always)]
    fn trim(&mut self, octets: u32) -> bool {
        // SAFETY: the kernel passes a valid context.
        octets == 0 || unsafe { bpf_xdp_adjust_tail(self.ctx, -(octets as i32)) == 0 }
    }

    #[inline(always)]
    fn grow(&mut self, octets: u32) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { bpf_xdp_adjust_tail(self.ctx, octets as i32) == 0 }
    }
}
