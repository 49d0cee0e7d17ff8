//! Asking containers how they are, and running their hooks: HTTP, TCP and commands, from the node.

use std::{sync::Arc, time::Duration};

use copepod_identity::AnyCertificate;
use k8s_openapi::{
    api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{machine::Machine, worker::probe_timeout};

/// A postStart hook that hangs keeps its container from ever being ready; it fails after this long.
pub const POST_START_MAX: Duration = Duration::from_secs(120);

/// Answers are looked at for their status line; a server that sends more than this before it has sent one is broken.
const HEAD_MAX_BYTES: usize = 16 << 10;

/// How much of what a probe said goes into events.
const SAID_MAX_CHARS: usize = 300;

/// Whether the container passes, and what it said if it does not.
pub async fn probe(machine: &Machine, wanted: &Container, probe: &Probe, id: &str, ips: &[String]) -> (bool, String) {
    let limit = probe_timeout(probe);
    let asked = async {
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let said = machine.rooms.runtime.exec(id, &command, limit).await.map_err(|error| error.0)?;
            return if said.exit_code == 0 { Ok(()) } else { Err(said.output) };
        }
        if let Some(http) = &probe.http_get {
            return get(wanted, http, ips).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            return connect(wanted, tcp, ips).await;
        }
        if let Some(grpc) = &probe.grpc {
            return health(grpc, ips).await;
        }
        Ok(())
    };
    // The runtime bounds commands itself; a moment more, so that it can say so.
    let limit = if probe.exec.is_some() { limit + Duration::from_millis(500) } else { limit };
    match timeout(limit, asked).await {
        Ok(Ok(())) => (true, String::new()),
        Ok(Err(said)) => (false, said.trim().chars().take(SAID_MAX_CHARS).collect()),
        Err(_) => (false, format!("no answer within {} s", probe_timeout(probe).as_secs())),
    }
}

/// Runs a hook for at most `limit`.
pub async fn hook(
    machine: &Machine,
    wanted: &Container,
    handler: &LifecycleHandler,
    id: &str,
    ips: &[String],
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let said = machine.rooms.runtime.exec(id, &command, limit).await.map_err(|error| error.0)?;
            if said.exit_code != 0 {
                let output: String = said.output.trim().chars().take(SAID_MAX_CHARS).collect();
                return Err(format!("command exited with {}: {output}", said.exit_code));
            }
        }
        if let Some(http) = &handler.http_get {
            get(wanted, http, ips).await?;
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        }
        Ok(())
    };
    timeout(limit, work).await.unwrap_or_else(|_| Err(format!("did not end within {} s", limit.as_secs())))
}

fn port(wanted: &Container, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).ok().filter(|n| *n > 0).ok_or_else(|| format!("port {number} is not a port"))
        }
        IntOrString::String(name) => {
            let named = wanted.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            let number = named.map(|port| port.container_port).or_else(|| name.parse().ok());
            number
                .and_then(|number| u16::try_from(number).ok())
                .ok_or_else(|| format!("the container has no port named {name:?}"))
        }
    }
}

fn host<'a>(asked: Option<&'a str>, ips: &'a [String]) -> Result<&'a str, String> {
    asked
        .filter(|host| !host.is_empty())
        .or(ips.first().map(String::as_str))
        .ok_or_else(|| "the pod has no address yet".to_owned())
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

async fn connect(wanted: &Container, tcp: &TCPSocketAction, ips: &[String]) -> Result<(), String> {
    dial(host(tcp.host.as_deref(), ips)?, port(wanted, &tcp.port)?).await.map(drop)
}

async fn get(wanted: &Container, http: &HTTPGetAction, ips: &[String]) -> Result<(), String> {
    let host = host(http.host.as_deref(), ips)?;
    let port = port(wanted, &http.port)?;
    let stream = dial(host, port).await?;
    let request = request(http, host, port)?;
    let code = if http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(any_certificate()?)
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS with {host}:{port}: {error}"))?;
        exchange(stream, &request).await
    } else {
        exchange(stream, &request).await
    };
    match code {
        Ok(200..=399) => Ok(()),
        Ok(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        Err(error) => Err(format!("Get \"{}\": {error}", http.path.as_deref().unwrap_or("/"))),
    }
}

fn request(http: &HTTPGetAction, host: &str, port: u16) -> Result<String, String> {
    let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut headers = vec![
        ("Host".to_owned(), format!("{shown}:{port}")),
        ("User-Agent".to_owned(), "kube-probe/1.36".to_owned()),
        ("Accept".to_owned(), "*/*".to_owned()),
        ("Connection".to_owned(), "close".to_owned()),
    ];
    for header in http.http_headers.iter().flatten() {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case(&header.name));
        headers.push((header.name.clone(), header.value.clone()));
    }
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let lines: Vec<String> = std::iter::once(format!("GET {path} HTTP/1.1")).chain(lines).collect();
    if lines.iter().any(|line| line.contains(['\r', '\n'])) || path.contains(' ') {
        return Err("path and headers must not contain line breaks, nor the path spaces".into());
    }
    Ok(lines.join("\r\n") + "\r\n\r\n")
}

/// Sends a request and reads the status code of its answer.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<u16, String> {
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    loop {
        let mut part = [0; 1024];
        let n_bytes = stream.read(&mut part).await.map_err(|error| error.to_string())?;
        head.extend_from_slice(&part[..n_bytes]);
        if let Some(line) = head.split(|byte| *byte == b'\n').next().filter(|line| line.len() < head.len()) {
            let line = String::from_utf8_lossy(line);
            let code = line.split_whitespace().nth(1).filter(|_| line.starts_with("HTTP/"));
            return code.and_then(|code| code.parse().ok()).ok_or_else(|| format!("malformed HTTP response {line:?}"));
        }
        if n_bytes == 0 || head.len() > HEAD_MAX_BYTES {
            return Err("EOF".into());
        }
    }
}

/// The health protocol of gRPC. The messages have one field each, so they are written by hand: `service` going, `status`
/// coming.
async fn health(grpc: &GRPCAction, ips: &[String]) -> Result<(), String> {
    let port = u16::try_from(grpc.port).map_err(|_| format!("port {} is not a port", grpc.port))?;
    let host = host(None, ips)?;
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{shown}:{port}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let service = grpc.service.clone().unwrap_or_default();
    let asked = client.unary(tonic::Request::new(service), path, health_codec::HealthCodec).await;
    match asked {
        Ok(answer) if answer.get_ref() == &health_codec::SERVING => Ok(()),
        Ok(answer) => Err(format!("service unhealthy (responded with status {})", answer.get_ref())),
        Err(status) => Err(format!("{}: {}", status.code(), status.message())),
    }
}

mod health_codec {
    //! `HealthCheckRequest { string service = 1 }` and `HealthCheckResponse { ServingStatus status = 1 }`.

    use bytes::{Buf, BufMut};
    use tonic::{
        Status,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    };

    pub const SERVING: u8 = 1;

    #[derive(Default)]
    pub struct HealthCodec;

    impl Codec for HealthCodec {
        type Encode = String;
        type Decode = u8;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            HealthCodec
        }

        fn decoder(&mut self) -> Self {
            HealthCodec
        }
    }

    impl Encoder for HealthCodec {
        type Item = String;
        type Error = Status;

        fn encode(&mut self, service: String, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
            // Names of services are short; one byte of length holds them.
            let length = u8::try_from(service.len()).ok().filter(|length| *length < 128);
            let length = length.ok_or_else(|| Status::invalid_argument("the service's name is too long"))?;
            if length > 0 {
                out.put_slice(&[0x0a, length]);
                out.put_slice(service.as_bytes());
            }
            Ok(())
        }
    }

    impl Decoder for HealthCodec {
        type Item = u8;
        type Error = Status;

        fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<u8>, Status> {
            let mut status = 0;
            while bytes.remaining() >= 2 {
                if bytes.get_u8() == 0x08 {
                    status = bytes.get_u8();
                }
            }
            bytes.advance(bytes.remaining());
            Ok(Some(status))
        }
    }
}

/// Probes do not check certificates: they ask whether a server answers, not who it is.
fn any_certificate() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(AnyCertificate::verifier())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn ask(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n_bytes = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..n_bytes]).into_owned()
        });
        let http =
            HTTPGetAction { port: IntOrString::Int(i32::from(port)), path: Some("live".into()), ..Default::default() };
        let said = get(&Container::default(), &http, &["127.0.0.1".into()]).await;
        assert!(server.await.unwrap().starts_with("GET /live HTTP/1.1\r\nHost: 127.0.0.1:"));
        said
    }

    #[tokio::test]
    async fn answers_over_http_are_understood() {
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\n").await, Ok(()));
        assert_eq!(ask("HTTP/1.0 302 Found\r\n\r\n").await, Ok(()));
        assert_eq!(ask("HTTP/1.1 503 No\r\n\r\n").await, Err("HTTP probe failed with statuscode: 503".into()));
        assert_eq!(ask("").await, Err("Get \"live\": EOF".into()));
        assert!(ask("SSH-2.0\r\n").await.unwrap_err().contains("malformed HTTP response"));
    }

    #[test]
    fn ports_may_be_named() {
        let wanted: Container =
            serde_json::from_value(serde_json::json!({"name": "a", "ports": [{"name": "web", "containerPort": 80}]}))
                .unwrap();
        assert_eq!(port(&wanted, &IntOrString::String("web".into())), Ok(80));
        assert_eq!(port(&wanted, &IntOrString::String("8080".into())), Ok(8080));
        assert!(port(&wanted, &IntOrString::String("no".into())).is_err());
        assert!(port(&wanted, &IntOrString::Int(0)).is_err());
    }

    #[test]
    fn a_header_cannot_smuggle_a_request() {
        let http: HTTPGetAction = serde_json::from_value(serde_json::json!({
            "port": 80, "httpHeaders": [{"name": "X", "value": "a\r\nEvil: 1"}]}))
        .unwrap();
        assert!(request(&http, "h", 80).is_err());
    }
}
