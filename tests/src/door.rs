use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
};

/// Stands before a TCP server: what it lets through can be stopped.
pub struct Door {
    address: SocketAddr,
    is: Arc<watch::Sender<Is>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Open,
    /// What the server says stays here; it hears everything.
    Mute,
    /// Connections end, and there are no others.
    Shut,
}

impl Door {
    /// One before a server that may be started later: [`Hinge::to`] says where it is.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn new() -> io::Result<(Self, Hinge)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let is = Arc::new(watch::Sender::new(Is::Open));
        let hinge = Hinge { listener, is: is.subscribe() };
        Ok((Self { address, is }, hinge))
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing that the server says comes out any more, and it goes on hearing everything.
    pub fn mute(&self) {
        self.is.send_replace(Is::Mute);
    }

    /// All connections end, and there are no others.
    pub fn shut(&self) {
        self.is.send_replace(Is::Shut);
    }

    /// There may be connections again. What was kept when it was shut is lost.
    pub fn open(&self) {
        self.is.send_replace(Is::Open);
    }
}

/// A door that has no server yet.
pub struct Hinge {
    listener: TcpListener,
    is: watch::Receiver<Is>,
}

impl Hinge {
    /// Lets through to this server for as long as the door is there.
    pub fn to(self, server: String) {
        tokio::spawn(async move {
            let Self { listener, is } = self;
            while let Ok((outside, _)) = listener.accept().await {
                // A connection that is taken and ended at once is as good as none.
                if is.has_changed().is_err() || *is.borrow() == Is::Shut {
                    continue;
                }
                let Ok(inside) = TcpStream::connect(&server).await else { continue };
                tokio::spawn(pass(outside, inside, is.clone()));
            }
        });
    }
}

/// Until either end is over, or the door is shut.
async fn pass(outside: TcpStream, inside: TcpStream, mut is: watch::Receiver<Is>) {
    let _ = (outside.set_nodelay(true), inside.set_nodelay(true));
    let mut shut = is.clone();
    let (mut from_outside, mut to_outside) = outside.into_split();
    let (mut from_inside, mut to_inside) = inside.into_split();
    let asked = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_outside.read(&mut bytes).await {
            if to_inside.write_all(bytes.get(..read).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    };
    let said = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_inside.read(&mut bytes).await {
            let may = is.wait_for(|is| *is != Is::Mute).await.is_ok_and(|is| *is == Is::Open);
            if !may || to_outside.write_all(bytes.get(..read).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    };
    select! {
        () = asked => {}
        () = said => {}
        _ = shut.wait_for(|is| *is == Is::Shut) => {}
    }
}
