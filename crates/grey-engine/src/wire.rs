//! The two ways in which messages and what is attached to them cross: a Unix stream socket to a
//! process, and channels to a thread. The protocol above cannot tell them apart.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream as BlockingStream,
    },
    sync::{Arc, mpsc as blocking},
};

use bytes::{Buf as _, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::UnixStream,
    sync::mpsc,
};

use crate::{
    memory::Segment,
    protocol::{DESCRIPTORS_MAX, FromHost, HEADER_BYTES, Header, ToHost, decode, encode},
};

/// What comes with a message to a host.
#[derive(Debug)]
pub(crate) enum Attachment {
    /// A descriptor: a segment's memory, a sealed file, the node's pidfd.
    Descriptor(OwnedFd),
    /// Memory of the same process.
    Memory(Arc<Segment>),
}

/// The node's end.
#[derive(Debug)]
pub(crate) enum NodeEnd {
    Process { stream: UnixStream, received: BytesMut, unsent: VecDeque<Outgoing> },
    Inline { to: blocking::Sender<(ToHost, Vec<Attachment>)>, from: mpsc::UnboundedReceiver<FromHost> },
}

/// A frame on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    attached: Vec<Attachment>,
}

impl NodeEnd {
    pub(crate) fn process(stream: UnixStream) -> NodeEnd {
        NodeEnd::Process { stream, received: BytesMut::new(), unsent: VecDeque::new() }
    }

    /// Sends a message. Once polled, the message will go out: if the future is dropped half-way, the
    /// next call sends the rest first.
    pub(crate) async fn send(&mut self, message: ToHost, attached: Vec<Attachment>) -> io::Result<()> {
        match self {
            NodeEnd::Inline { to, .. } => {
                to.send((message, attached)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
            }
            NodeEnd::Process { stream, unsent, .. } => {
                let count = u16::try_from(descriptors(&attached).len()).map_err(io::Error::other)?;
                let frame = encode(&message, count).map_err(io::Error::other)?;
                unsent.push_back(Outgoing { frame, sent: 0, attached });
                flush(stream, unsent).await
            }
        }
    }

    /// The next message. Dropping the future loses nothing: what arrived is kept for the next call.
    pub(crate) async fn receive(&mut self) -> io::Result<FromHost> {
        match self {
            NodeEnd::Inline { from, .. } => from.recv().await.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            NodeEnd::Process { stream, received, unsent } => {
                // An answer can only come to what was sent.
                flush(stream, unsent).await?;
                loop {
                    if let Some(header) = received.first_chunk::<HEADER_BYTES>() {
                        let header = Header::parse(*header).map_err(io::Error::other)?;
                        if received.len() >= HEADER_BYTES + header.len {
                            received.advance(HEADER_BYTES);
                            let payload = received.split_to(header.len);
                            return decode(&payload).map_err(io::Error::other);
                        }
                    }
                    if stream.read_buf(received).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }
}

async fn flush(stream: &UnixStream, unsent: &mut VecDeque<Outgoing>) -> io::Result<()> {
    while let Some(Outgoing { frame, sent, attached }) = unsent.front_mut() {
        while let Some(rest) = frame.get(*sent..).filter(|r| !r.is_empty()) {
            // Descriptors travel with the first byte.
            let with = if *sent == 0 { descriptors(attached) } else { Vec::new() };
            *sent += stream.async_io(Interest::WRITABLE, || send_some(stream.as_fd(), rest, &with)).await?;
        }
        unsent.pop_front();
    }
    Ok(())
}

fn descriptors(attached: &[Attachment]) -> Vec<BorrowedFd<'_>> {
    attached
        .iter()
        .filter_map(|a| match a {
            Attachment::Descriptor(fd) => Some(fd.as_fd()),
            Attachment::Memory(_) => None,
        })
        .collect()
}

fn send_some(socket: BorrowedFd<'_>, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than a message may carry"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?)
}

/// The host's end; synchronous.
#[derive(Debug)]
pub(crate) enum HostEnd {
    Process(BlockingStream),
    Inline { from: blocking::Receiver<(ToHost, Vec<Attachment>)>, to: mpsc::UnboundedSender<FromHost> },
}

impl HostEnd {
    /// The next message; `None` when the node has closed its end.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(ToHost, Vec<Attachment>)>> {
        match self {
            HostEnd::Inline { from, .. } => Ok(from.recv().ok()),
            HostEnd::Process(stream) => receive_frame(stream),
        }
    }

    pub(crate) fn send(&mut self, message: FromHost) -> io::Result<()> {
        match self {
            HostEnd::Inline { to, .. } => to.send(message).map_err(|_| io::ErrorKind::BrokenPipe.into()),
            HostEnd::Process(stream) => {
                let frame = encode(&message, 0).map_err(io::Error::other)?;
                io::Write::write_all(stream, &frame)
            }
        }
    }
}

fn receive_frame<M: DeserializeOwned>(stream: &mut BlockingStream) -> io::Result<Option<(M, Vec<Attachment>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = Vec::new();
    let mut header = [0; HEADER_BYTES];
    let mut got = 0;
    while got < HEADER_BYTES {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut header[got..])];
        let n = match recvmsg(&*stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                attached.extend(fds.map(Attachment::Descriptor));
            }
        }
        match n {
            0 if got == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    let header = Header::parse(header).map_err(io::Error::other)?;
    if usize::from(header.descriptors) != attached.len() {
        return Err(io::Error::other(format!(
            "{} descriptors were announced, {} came",
            header.descriptors,
            attached.len()
        )));
    }
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload)?;
    Ok(Some((decode(&payload).map_err(io::Error::other)?, attached)))
}
