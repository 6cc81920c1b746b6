//! DMA of network devices.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use zc_profiler_ebpf::{Device, Flow};

use crate::{
    kernel::fields::{at, field},
    ledger::entry,
    sockets,
};

/// Tracepoint `net:net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`, on
/// all kernels.
///
/// Counts what devices that have hardware, real or virtual, behind them are given to send, headers
/// included; loopback, veth and tunnels have none. Charged to the socket's owner. Without it, DMA of
/// sends is not counted.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn net_dev_start_xmit(ctx: BtfTracePointContext) -> i32 {
    let (skb, device): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    if !entry::enabled() || !has_hardware(device) {
        return 0;
    }
    let bytes: u32 = field(skb, at!(skb_len));
    if let Some(entry) = sockets::charged(field(skb, at!(skb_sk))) {
        entry.add_dma(Device::Net, Flow::Out, bytes.into());
    }
    0
}

macro_rules! arrivals {
    ($($name:ident $tracepoint:literal;)*) => {$(
        #[doc = concat!("Tracepoint `net:", $tracepoint, "(const struct sk_buff *skb)`, on all kernels.")]
        ///
        /// Counts what such devices received, headers included, for the kernel: whose it is turns out
        /// later. Without it, DMA of receives through this entrance is not counted.
        #[btf_tracepoint(function = $tracepoint)]
        pub fn $name(ctx: BtfTracePointContext) -> i32 {
            arrived(ctx.arg(0));
            0
        }
    )*};
}

// Before packets are merged: each comes in through one of these.
arrivals! {
    napi_gro_receive_entry "napi_gro_receive_entry";
    napi_gro_frags_entry "napi_gro_frags_entry";
    netif_receive_skb_entry "netif_receive_skb_entry";
    netif_receive_skb_list_entry "netif_receive_skb_list_entry";
    netif_rx_entry "netif_rx_entry";
}

#[inline(always)]
fn arrived(skb: *const u8) {
    if !entry::enabled() || !has_hardware(field(skb, at!(skb_dev))) {
        return;
    }
    let bytes: u32 = field(skb, at!(skb_len));
    // The link's header lies before `data` already.
    let head: u64 = field(skb, at!(skb_head));
    let data: u64 = field(skb, at!(skb_data));
    let link: u16 = field(skb, at!(skb_mac_header));
    let header = data.wrapping_sub(head.wrapping_add(u64::from(link)));
    let header = if header < 256 { header } else { 0 };
    if let Some(entry) = entry::kernel() {
        entry.add_dma(Device::Net, Flow::In, u64::from(bytes) + header);
    }
}

/// Whether a `net_device` has a parent in the device tree.
#[inline(always)]
fn has_hardware(device: *const u8) -> bool {
    field::<_, u64>(device, at!(net_device_parent)) != 0
}
