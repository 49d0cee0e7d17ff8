//! A real registry, on loopback, with a directory of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// `user:secret`, as `htpasswd -B` writes it.
const USER: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

pub(crate) struct DockerRegistry {
    process: Child,
    dir: TempDir,
    /// `127.0.0.1:port`
    pub address: String,
    login: bool,
}

impl DockerRegistry {
    pub fn start() -> DockerRegistry {
        DockerRegistry::start_with(false, None)
    }

    pub fn with_login() -> DockerRegistry {
        DockerRegistry::start_with(true, None)
    }

    /// Encrypted, with a certificate and its key in these files.
    pub fn with_certificate(certificate: &Path, key: &Path) -> DockerRegistry {
        DockerRegistry::start_with(false, Some((certificate, key)))
    }

    fn start_with(login: bool, certificate: Option<(&Path, &Path)>) -> DockerRegistry {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        // Free a moment ago; nobody else here takes ports by number.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
             addr: {address}\n",
            path("storage")
        );
        if let Some((certificate, key)) = certificate {
            let (certificate, key) = (certificate.display(), key.display());
            config.push_str(&format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"));
        }
        if login {
            fs::write(path("htpasswd"), USER).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd")));
        }
        fs::write(path("config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (Debian: docker-registry)");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = lines.any(|line| line.unwrap().contains("listening on"));
        assert!(listening, "the registry ended before it listened");
        // It stops when nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        DockerRegistry { process, dir, address, login }
    }

    /// Pushes the image of an OCI layout.
    pub fn push(&self, layout: &Path, name: &str) {
        let policy = self.dir.path().join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo.arg("--policy").arg(&policy).args(["copy", "-q", "--dest-tls-verify=false"]);
        if self.login {
            skopeo.args(["--dest-creds", "user:secret"]);
        }
        let pushed = skopeo
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .env_remove("http_proxy")
            .status()
            .expect("skopeo is installed");
        assert!(pushed.success());
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
