//! Which cluster a command speaks to: `--kubeconfig`, `KUBECONFIG`, the local cluster, this machine's server, `~/.kube/config`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::{
    failure::{Doing, Failure, Outcome},
    lab,
};

/// One cluster and how to prove who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `host:port`.
    pub address: String,
    pub tls_server_name: String,
    pub authority_pem: String,
    /// Certificate and key, PEM.
    pub client: Option<(String, String)>,
    pub token: Option<String>,
    pub namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<PathBuf>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    token: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

/// The file a command uses when none is named.
pub fn find(named: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        return std::env::split_paths(&path)
            .find(|path| path.exists())
            .ok_or_else(|| Failure::new(format!("KUBECONFIG names no file that exists: {}", path.to_string_lossy())));
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let places = [Some(lab::kubeconfig_path()), Some(PathBuf::from(crate::server::ADMIN_KUBECONFIG)), home];
    places.into_iter().flatten().find(|path| path.exists()).ok_or_else(|| {
        Failure::new("no cluster is known here")
            .hint("start one with `copepod up`, or name a kubeconfig with --kubeconfig or KUBECONFIG")
    })
}

pub fn read(path: &Path, context: Option<&str>) -> Outcome<Access> {
    let text = fs::read_to_string(path).doing(format_args!("cannot read the kubeconfig {}", path.display()))?;
    parse(&text, path.parent().unwrap_or(Path::new("/")), context)
        .map_err(|failure| Failure { message: format!("{}: {}", path.display(), failure.message), hint: failure.hint })
}

fn parse(text: &str, beside: &Path, context: Option<&str>) -> Outcome<Access> {
    let config: Config = serde_yaml::from_str(text).doing("not a kubeconfig")?;
    let wanted = context.unwrap_or(&config.current_context);
    let context = config
        .contexts
        .iter()
        .find(|context| context.name == wanted)
        .ok_or_else(|| Failure::new(format!("there is no context {wanted:?}")))?;
    let cluster = config
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.context.cluster)
        .ok_or_else(|| Failure::new(format!("there is no cluster {:?}", context.context.cluster)))?;
    let user = config.users.iter().find(|user| user.name == context.context.user);

    let (address, host) = address(&cluster.cluster.server)?;
    let pem = |data: &Option<String>, file: &Option<PathBuf>| -> Outcome<Option<String>> {
        if let Some(data) = data {
            let bytes = BASE64_STANDARD.decode(data.trim()).doing("certificate data is not base64")?;
            return String::from_utf8(bytes).doing("certificate data is not PEM").map(Some);
        }
        let Some(file) = file else { return Ok(None) };
        let path = beside.join(file);
        fs::read_to_string(&path).doing(format_args!("cannot read {}", path.display())).map(Some)
    };
    let authority = pem(&cluster.cluster.certificate_authority_data, &cluster.cluster.certificate_authority)?;
    let client = match user {
        Some(user) => {
            let user = &user.user;
            pem(&user.client_certificate_data, &user.client_certificate)?
                .zip(pem(&user.client_key_data, &user.client_key)?)
        }
        None => None,
    };
    Ok(Access {
        address,
        tls_server_name: cluster.cluster.tls_server_name.clone().unwrap_or(host),
        authority_pem: authority
            .ok_or_else(|| Failure::new(format!("cluster {:?} names no certificate authority", cluster.name)))?,
        client,
        token: user.and_then(|user| user.user.token.clone()),
        namespace: context.context.namespace.clone(),
    })
}

/// `host:port` and the host of `https://host[:port]`.
fn address(server: &str) -> Outcome<(String, String)> {
    let uri: http::Uri = server.parse().doing(format_args!("server {server:?} is not an address"))?;
    if uri.scheme_str() != Some("https") {
        return Err(Failure::new(format!("server {server:?} is not https://…")));
    }
    let host = uri.host().unwrap_or_default().to_owned();
    Ok((format!("{host}:{}", uri.port_u16().unwrap_or(443)), host.trim_matches(['[', ']']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: 'https://10.0.0.1:6443', tls-server-name: copepod, certificate-authority-data: YQ==}}]
users: [{name: u, user: {client-certificate-data: Yg==, client-key-data: Yw==}}]
contexts: [{name: c, context: {cluster: k, user: u, namespace: apps}}]
";

    #[test]
    fn the_current_context_decides() {
        let access = parse(TEXT, Path::new("/"), None).unwrap();
        assert_eq!(access.address, "10.0.0.1:6443");
        assert_eq!(access.tls_server_name, "copepod");
        assert_eq!(access.client, Some(("b".into(), "c".into())));
        assert_eq!(access.namespace.as_deref(), Some("apps"));
    }

    #[test]
    fn a_context_that_is_not_there_is_named() {
        let failure = parse(TEXT, Path::new("/"), Some("other")).unwrap_err();
        assert_eq!(failure.message, "there is no context \"other\"");
    }
}
