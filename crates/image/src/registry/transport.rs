//! Connections: clients of `reqwest`, one for each manner of TLS, made when first needed.
//!
//! Nothing here is process-wide: TLS is `rustls` with `ring` by client, proxies are set by client, and the machine's certificate
//! authorities are read only when the first connection with TLS is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use reqwest::{NoProxy, Proxy as HttpProxy, redirect};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::settings::{Proxy, Settings};
use crate::error::{Error, shortened};
use crate::tls;

/// How a host is convinced that we are we, and we that it is it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Tls {
    /// Certificate authorities beside those of the machine, as PEM.
    pub(super) roots: Vec<Vec<u8>>,
    /// Certificates and key, as PEM.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Whoever answers is taken for the right one.
    pub(super) unverified: bool,
}

/// How connections to a host are made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    /// None for plain HTTP.
    pub(super) tls: Option<Tls>,
    /// How long connecting may take.
    pub(super) dial: Duration,
}

/// Makes clients, and keeps them.
#[derive(Debug)]
pub(super) struct Transport {
    clients: Mutex<HashMap<Manner, reqwest::Client>>,
    roots: Arc<OnceLock<RootCertStore>>,
    proxies: Vec<HttpProxy>,
}

impl Transport {
    pub(super) fn new(settings: &Settings, roots: &Arc<OnceLock<RootCertStore>>) -> Result<Transport, Error> {
        Ok(Transport { clients: Mutex::default(), roots: roots.clone(), proxies: proxies(&settings.proxy)? })
    }

    /// A client that was made before.
    pub(super) fn made(&self, manner: &Manner) -> Option<reqwest::Client> {
        self.clients.lock().unwrap_or_else(|e| e.into_inner()).get(manner).cloned()
    }

    /// A client for a manner of connecting. May read certificates from the disk.
    pub(super) fn client(&self, manner: Manner) -> Result<reqwest::Client, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let config = match &manner.tls {
            // reqwest wants one; without authorities it connects to nobody.
            None => builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
            Some(tls) => self.config(tls)?,
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(manner.dial)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")));
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        let client = builder.build().map_err(|e| Error::Setting { what: "the HTTP client".into(), why: e.to_string() })?;
        clients.insert(manner, client.clone());
        Ok(client)
    }

    fn config(&self, tls: &Tls) -> Result<ClientConfig, Error> {
        let builder = builder()?;
        let builder = match tls.unverified {
            true => tls::of_anybody(builder),
            false => builder.with_root_certificates(self.authorities(&tls.roots)?),
        };
        let Some((certificates, key)) = &tls.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let fail = |why: String| Error::Setting { what: "the client certificate".into(), why };
        let chain = tls::certificates(certificates).map_err(fail)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| fail(format!("its key: {e}")))?;
        builder.with_client_auth_cert(chain, key).map_err(|e| fail(e.to_string()))
    }

    /// Those of the machine, and others.
    fn authorities(&self, more: &[Vec<u8>]) -> Result<RootCertStore, Error> {
        let mut roots = self.roots.get_or_init(tls::of_this_machine).clone();
        for pem in more {
            let fail = |why: String| Error::Setting { what: "the certificate of an authority".into(), why };
            for certificate in tls::certificates(pem).map_err(fail)? {
                roots.add(certificate).map_err(|e| fail(e.to_string()))?;
            }
        }
        if roots.is_empty() {
            let why =
                "this machine trusts no certificate authority: install the package ca-certificates, or name one by `RegistryClient::trust`";
            return Err(Error::Setting { what: "TLS".into(), why: why.into() });
        }
        Ok(roots)
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    tls::builder().map_err(|e| Error::Setting { what: "TLS".into(), why: e.to_string() })
}

/// Hosts that no proxy is asked for, whatever else is said: a proxy's localhost is another one.
const OURSELVES: &str = "localhost,127.0.0.0/8,::1";

fn proxies(proxy: &Proxy) -> Result<Vec<HttpProxy>, Error> {
    let env = |names: [&str; 2]| names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    let (pairs, except) = match proxy {
        Proxy::None => return Ok(Vec::new()),
        Proxy::Explicit { url, except } => (vec![("", url.clone())], except.clone()),
        Proxy::Environment => {
            // A server sets $HTTP_PROXY from a request's header `Proxy` for the programs it runs (CVE-2016-5385).
            let upper = if std::env::var_os("REQUEST_METHOD").is_some() { "http_proxy" } else { "HTTP_PROXY" };
            let all = env(["all_proxy", "ALL_PROXY"]);
            let http = env(["http_proxy", upper]).or(all.clone()).map(|url| ("http", url));
            let https = env(["https_proxy", "HTTPS_PROXY"]).or(all).map(|url| ("https", url));
            (http.into_iter().chain(https).collect(), env(["no_proxy", "NO_PROXY"]).unwrap_or_default())
        }
    };
    let except = NoProxy::from_string(&format!("{OURSELVES},{except}"));
    pairs
        .into_iter()
        .map(|(scheme, url)| {
            // Its password is nobody's business.
            let shown = shortened(url.rsplit_once('@').map_or(url.as_str(), |(_, host)| host));
            let fail = |why: String| Error::Setting { what: format!("the proxy {shown}"), why };
            if url
                .split_once("://")
                .is_some_and(|(scheme, _)| !matches!(scheme, "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h"))
            {
                return Err(fail("only proxies of http, https, socks4 and socks5 are known".into()));
            }
            let made = match scheme {
                "http" => HttpProxy::http(&url),
                "https" => HttpProxy::https(&url),
                _ => HttpProxy::all(&url),
            };
            made.map(|p| p.no_proxy(except.clone())).map_err(|_| fail("it isn't the address of one".into()))
        })
        .collect()
}
