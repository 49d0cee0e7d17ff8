//! Nodes, pods and machines as network namespaces of the test's own process. A namespace has no name and goes with the last
//! descriptor of it, so nothing is left behind, and no two tests meet.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use copepod_network::{Config, Network, PodLink, Policies, Range, Search, Service, Wishes};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Long enough on a busy machine; only what is broken takes so long.
const PATIENCE: Duration = Duration::from_secs(5);

const IMPATIENCE: Duration = Duration::from_millis(300);

/// A network namespace, and that of the wire it is on: a link goes with either of its ends.
pub struct Space {
    file: Arc<File>,
    _wires: Vec<Arc<File>>,
}

impl Space {
    pub fn new() -> Space {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let space = Space { file: Arc::new(made.join().unwrap()), _wires: Vec::new() };
        space.sh("ip link set lo up");
        space
    }

    /// Keeps the other while this one is there.
    fn wire_of(&mut self, other: &Space) {
        self._wires.extend([other.file.clone()].into_iter().chain(other._wires.iter().cloned()));
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs something inside.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let file = self.file.clone();
        std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// What a command line prints.
    pub fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Answers everybody with this name and where they come from.
    pub fn serve(&self, name: &'static str, port: u16) {
        let (tcp, udp) = self.run(move || {
            let everywhere = (Ipv4Addr::UNSPECIFIED, port);
            (TcpListener::bind(everywhere).unwrap(), UdpSocket::bind(everywhere).unwrap())
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = tcp.accept() {
                std::thread::spawn(move || {
                    let mut word = [0; 1];
                    while stream.read_exact(&mut word).is_ok() {
                        let _ = stream.write_all(format!("{name} to {}\n", from.ip()).as_bytes());
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut word = [0; 16];
            while let Ok((_, from)) = udp.recv_from(&mut word) {
                let _ = udp.send_to(format!("{name} to {}\n", from.ip()).as_bytes(), from);
            }
        });
    }

    pub fn connect(&self, to: &str) -> Result<TcpStream, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.kind()))
    }

    /// `web to 10.244.1.2`, or why not.
    pub fn tcp(&self, to: &str) -> String {
        match self.connect(to) {
            Ok(mut stream) => again(&mut stream),
            Err(kind) => format!("{kind:?}"),
        }
    }

    /// As `tcp`, where no answer is expected.
    pub fn tcp_soon(&self, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || match TcpStream::connect_timeout(&to, IMPATIENCE) {
            Ok(mut stream) => again(&mut stream),
            Err(error) => format!("{:?}", error.kind()),
        })
    }

    pub fn udp(&self, to: &str) -> String {
        self.asker(to)()
    }

    /// Asks again and again from the same port.
    pub fn asker(&self, to: &str) -> impl FnMut() -> String + use<> {
        let to: SocketAddr = to.parse().unwrap();
        let socket = self.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).map(|()| socket)
        });
        let mut answer = [0; 64];
        move || {
            let got = socket.as_ref().map_err(std::io::Error::kind).and_then(|socket| {
                socket.send(b"?").and_then(|_| socket.recv(&mut answer)).map_err(|error| error.kind())
            });
            match got {
                Ok(length) => String::from_utf8_lossy(&answer[..length]).trim().to_owned(),
                Err(kind) => format!("{kind:?}"),
            }
        }
    }
}

/// Asks once more on a connection that is open.
pub fn again(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 64];
    match stream.write_all(b"?").and_then(|()| stream.read(&mut answer)) {
        Ok(length) => String::from_utf8_lossy(&answer[..length]).trim().to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Asks so often at once, and says how long the answers are together.
pub fn answers(stream: &mut TcpStream, number: usize) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let asking = std::thread::spawn(move || writing.write_all(&vec![b'?'; number]));
    let (mut length, mut answer) = (0, [0; 4096]);
    while let Ok(more @ 1..) = stream.read(&mut answer) {
        length += more;
        if length >= number * "b to 10.244.1.2\n".len() {
            break;
        }
    }
    asking.join().unwrap().unwrap();
    length
}

/// Machines on one wire: 192.0.2.1 and so on.
pub struct Wire {
    switch: Space,
    machines: u8,
}

impl Wire {
    pub fn new() -> Wire {
        let switch = Space::new();
        switch.sh("ip link add br0 type bridge && ip link set br0 up");
        Wire { switch, machines: 0 }
    }

    pub fn machine(&mut self) -> Space {
        self.machines += 1;
        let (number, mut machine) = (self.machines, Space::new());
        machine.wire_of(&self.switch);
        machine.sh(&format!(
            "ip link add eth0 type veth peer name port && ip link set port netns {switch} name port{number} && \
             ip addr add 192.0.2.{number}/24 dev eth0 && ip link set eth0 up && ip route add default via 192.0.2.254",
            switch = self.switch.path().display(),
        ));
        self.switch.sh(&format!("ip link set port{number} master br0 && ip link set port{number} up"));
        machine
    }

    pub fn node(&mut self) -> Node {
        let space = self.machine();
        let address = Ipv4Addr::new(192, 0, 2, self.machines);
        Node::start(space, address, self.machines, tempfile::tempdir().unwrap())
    }
}

/// A node alone on its wire, 198.51.100.<number>, and a router on the wire of others, to which it is connected.
pub fn node_far_away(wire: &mut Wire, number: u8) -> Node {
    let (router, mut machine) = (wire.machine(), Space::new());
    machine.wire_of(&router);
    let address = Ipv4Addr::new(198, 51, 100, number);
    machine.sh(&format!(
        "ip link add eth0 type veth peer name far && ip link set far netns {} && ip addr add {address}/24 dev eth0 && \
         ip link set eth0 up && ip route add default via 198.51.100.254",
        router.path().display(),
    ));
    router.sh(
        "ip addr add 198.51.100.254/24 dev far && ip link set far up && echo 1 > /proc/sys/net/ipv4/ip_forward && \
               ip addr add 192.0.2.254/24 dev eth0",
    );
    Node::start(machine, address, number, tempfile::tempdir().unwrap())
}

/// A machine with the network of pods 10.244.<number>.0/24.
pub struct Node {
    pub space: Space,
    address: Ipv4Addr,
    number: u8,
    state: TempDir,
    /// Its threads are inside.
    runtime: Runtime,
    network: Arc<Network>,
}

impl Node {
    fn start(space: Space, address: Ipv4Addr, number: u8, state: TempDir) -> Node {
        let file = space.file.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || setns(&*file, CloneFlags::CLONE_NEWNET).unwrap())
            .build()
            .unwrap();
        let config = Config { state_dir: state.path().to_owned(), upstream: Vec::new() };
        let opened = runtime.spawn(Network::open(config));
        let network = Arc::new(runtime.block_on(opened).unwrap().unwrap());
        Node { space, address, number, state, runtime, network }
    }

    /// Ends the process, so to speak, and begins another.
    pub fn restart(self) -> Node {
        drop(self.network);
        drop(self.runtime);
        Node::start(self.space, self.address, self.number, self.state)
    }

    /// Does something with the network, inside.
    pub fn with<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Network>) -> F,
    ) -> T {
        self.runtime.block_on(self.runtime.spawn(work(self.network.clone()))).unwrap()
    }

    pub fn peers(&self, others: &[&Node]) {
        let peers: BTreeMap<Range, Ipv4Addr> = others.iter().map(|node| node.as_peer()).collect();
        let own = self.as_peer();
        self.with(async move |network| network.set_nodes(Some(own), &peers).await).unwrap();
    }

    fn as_peer(&self) -> (Range, Ipv4Addr) {
        (Range { base: Ipv4Addr::new(10, 244, self.number, 0), bits: 24 }, self.address)
    }

    pub fn services(&self, services: &[Service]) {
        self.services_and_policies(services, Policies::default());
    }

    pub fn services_and_policies(&self, services: &[Service], policies: Policies) {
        let services = services.to_vec();
        self.with(async move |network| network.set_services(services, policies).await).unwrap();
    }

    pub fn pod(&self, uid: &str) -> Pod {
        self.pod_with(uid, Wishes::default())
    }

    pub fn pod_with(&self, uid: &str, wishes: Wishes) -> Pod {
        let space = Space::new();
        let (link, netns) = (PodLink { uid: uid.to_owned(), wishes }, space.path());
        let address = self.with(async move |network| network.attach(&link, &netns).await).unwrap();
        Pod { space, address, node: self.number }
    }
}

pub struct Pod {
    pub space: Space,
    pub address: Ipv4Addr,
    pub node: u8,
}

/// The search path of a pod of the namespace `d`.
pub fn search() -> Search {
    Search::of("search d.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
}
