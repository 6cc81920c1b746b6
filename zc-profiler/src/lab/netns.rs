//! Network namespaces without a name, and cables between them. Each goes with the last socket in it,
//! so that nothing is left however the lab ends.

use std::{
    fs::File,
    io, mem,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    panic, ptr, thread,
};

use super::Error;

/// The ends of a cable: name and address of each.
const NEAR: (&str, Ipv4Addr) = ("near", Ipv4Addr::new(10, 9, 9, 1));
const FAR: (&str, Ipv4Addr) = ("far", Ipv4Addr::new(10, 9, 9, 2));

/// `ETHTOOL_SSG` and `ETHTOOL_STXCSUM` of linux/ethtool.h.
const SET_GATHER: u32 = 0x19;
const SET_CHECKSUM: u32 = 0x17;
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;

/// A network namespace.
pub(super) struct Namespace(File);

impl Namespace {
    /// An empty one.
    pub fn new() -> Result<Self, Error> {
        const PLACE: &str = "/proc/thread-self/ns/net";
        in_thread(|| {
            // SAFETY: no memory is passed, and it concerns this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(Error::last("unshare"));
            }
            File::open(PLACE).map(Self).map_err(Error::file(PLACE))
        })
    }

    /// One whose loopback takes packets of so many bytes.
    pub fn with_loopback(packet: libc::c_int) -> Result<Self, Error> {
        let namespace = Self::new()?;
        namespace.inside(|| {
            let mut request = named("lo");
            request.ifr_ifru.ifru_mtu = packet;
            ask(libc::SIOCSIFMTU, "SIOCSIFMTU", &mut request)?;
            bring_up("lo")
        })?;
        Ok(namespace)
    }

    /// Does something in it, in a thread of its own.
    pub fn inside<T: Send>(
        &self,
        action: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        in_thread(|| {
            // SAFETY: the file is open; no memory is passed.
            match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => action(),
                _ => Err(Error::last("setns")),
            }
        })
    }
}

fn in_thread<T: Send>(action: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| scope.spawn(action).join())
        .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// What the near end of a cable can do for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offloads {
    /// Gather a packet from several places in memory.
    pub gather: bool,
    /// Compute checksums.
    pub checksum: bool,
}

/// Two network namespaces with a cable between them.
pub(super) struct Cable {
    near: Namespace,
    far: Namespace,
}

impl Cable {
    pub fn new(offloads: Offloads) -> Result<Self, Error> {
        let cable = Self {
            near: Namespace::new()?,
            far: Namespace::new()?,
        };
        let far = cable.far.0.as_raw_fd();
        cable.near.inside(|| {
            make_pair(far)?;
            set_up(NEAR)?;
            switch(NEAR.0, SET_GATHER, offloads.gather)?;
            switch(NEAR.0, SET_CHECKSUM, offloads.checksum)
        })?;
        cable.far.inside(|| set_up(FAR))?;
        Ok(cable)
    }

    /// Whether this process may make one.
    pub fn is_available() -> bool {
        let all = Offloads {
            gather: true,
            checksum: true,
        };
        Self::new(all).is_ok()
    }

    /// A listener at the far end, and a connection to it from the near one.
    pub fn connect(&self) -> Result<(TcpListener, TcpStream), Error> {
        let listener = self.far.inside(|| {
            TcpListener::bind(SocketAddr::from((FAR.1, 0))).map_err(Error::call("bind"))
        })?;
        let address = listener.local_addr().map_err(Error::call("getsockname"))?;
        let stream = self
            .near
            .inside(|| TcpStream::connect(address).map_err(Error::call("connect")))?;
        Ok((listener, stream))
    }
}

fn set_up((device, address): (&str, Ipv4Addr)) -> Result<(), Error> {
    /// `AF_INET`, in the type of the member.
    const FAMILY: libc::sa_family_t = 2;
    let mut request = named(device);
    let address = libc::sockaddr_in {
        sin_family: FAMILY,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: either is plain bytes, of the same size.
    request.ifr_ifru.ifru_addr =
        unsafe { mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    ask(libc::SIOCSIFADDR, "SIOCSIFADDR", &mut request)?;
    bring_up(device)
}

fn bring_up(device: &str) -> Result<(), Error> {
    /// `IFF_UP`, in the type of the member.
    const UP: libc::c_short = 1;
    let mut request = named(device);
    request.ifr_ifru.ifru_flags = UP;
    ask(libc::SIOCSIFFLAGS, "SIOCSIFFLAGS", &mut request)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn switch(device: &str, command: u32, on: bool) -> Result<(), Error> {
    let mut value = EthtoolValue {
        command,
        data: on.into(),
    };
    let mut request = named(device);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    ask(SIOCETHTOOL, "SIOCETHTOOL", &mut request)
}

/// A request that concerns a device of this namespace.
fn named(device: &str) -> libc::ifreq {
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(device.bytes())
    {
        *to = from.cast_signed();
    }
    request
}

fn ask(what: libc::Ioctl, name: &'static str, request: &mut libc::ifreq) -> Result<(), Error> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::call("socket"))?;
    // SAFETY: the request, and what it names, are valid for the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) } {
        0 => Ok(()),
        _ => Err(Error::last(name)),
    }
}

/// A message to the kernel's side of netlink.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn attribute(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        content(self);
        self.set_length(start, 2);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |message| {
            message.0.extend(text.bytes());
            message.0.push(0);
        });
    }

    /// Writes at `start` how much there is from there on, in so many bytes.
    fn set_length(&mut self, start: usize, bytes: usize) {
        #[allow(clippy::cast_possible_truncation, reason = "some dozen bytes")]
        let length = (self.0.len() - start) as u32;
        // Of a little endian number the low bytes come first.
        self.0[start..start + bytes].copy_from_slice(&length.to_le_bytes()[..bytes]);
    }

    /// An empty `struct ifinfomsg`: any new device.
    fn device(&mut self) {
        self.0.extend([0; size_of::<libc::ifinfomsg>()]);
    }
}

/// `ip link add near type veth peer name far netns FAR`.
fn make_pair(far: libc::c_int) -> Result<(), Error> {
    /// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_EXCL` and `NLM_F_CREATE`, in the type of the member.
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
    let mut message = Message::default();
    message.0.extend([0; 4]);
    message.0.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.0.extend(FLAGS.to_ne_bytes());
    // Sequence number and sender: the only message of its socket.
    message.0.extend([0; 8]);
    message.device();
    message.text(libc::IFLA_IFNAME, NEAR.0);
    message.attribute(libc::IFLA_LINKINFO, |link| {
        link.text(libc::IFLA_INFO_KIND, "veth");
        link.attribute(libc::IFLA_INFO_DATA, |data| {
            data.attribute(VETH_INFO_PEER, |peer| {
                peer.device();
                peer.text(libc::IFLA_IFNAME, FAR.0);
                peer.attribute(libc::IFLA_NET_NS_FD, |namespace| {
                    namespace.0.extend(far.to_ne_bytes());
                });
            });
        });
    });
    message.set_length(0, 4);
    tell_kernel(&message)
}

fn tell_kernel(message: &Message) -> Result<(), Error> {
    /// Where the answer, `struct nlmsgerr`, has its error.
    const ERROR: usize = size_of::<libc::nlmsghdr>();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(Error::last("socket"));
    }
    // SAFETY: a new descriptor, which nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let (fd, bytes, mut answer) = (socket.as_raw_fd(), &message.0, [0u8; 1024]);
    // SAFETY: both buffers have these lengths; without an address it goes to the kernel.
    let (sent, received) = unsafe {
        let sent = libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, ptr::null(), 0);
        if sent < 0 {
            return Err(Error::last("RTM_NEWLINK"));
        }
        let received = libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0);
        (sent, received)
    };
    let error = answer[ERROR..]
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    match usize::try_from(received) {
        Err(_) => Err(Error::last("RTM_NEWLINK")),
        Ok(_) if error != 0 || sent.cast_unsigned() != bytes.len() => {
            Err(Error::call("RTM_NEWLINK")(io::Error::from_raw_os_error(
                -error,
            )))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_lengths() {
        let mut message = Message::default();
        message.attribute(7, |outer| outer.text(3, "far"));
        assert_eq!(
            message.0,
            [12, 0, 7, 0, 8, 0, 3, 0, b'f', b'a', b'r', 0],
            "each with its head"
        );
        message.text(1, "ab");
        assert_eq!(message.0[12..], [7, 0, 1, 0, b'a', b'b', 0, 0], "padded");
    }
}
