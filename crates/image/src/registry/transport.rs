//! Connections: clients of `reqwest`, one for each manner of TLS, made when first needed.
//!
//! Nothing here is process-wide: TLS is `rustls` with `ring` by client, proxies are set by client, and the machine's certificate
//! authorities are read only when the first connection with TLS is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use reqwest::{NoProxy, Proxy as HttpProxy, redirect};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::settings::{Proxy, Settings};
use crate::error::{Error, shortened};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(20);

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

/// Makes clients, and keeps them.
#[derive(Debug)]
pub(super) struct Transport {
    /// By manner of TLS; none for plain HTTP.
    clients: Mutex<HashMap<Option<Tls>, reqwest::Client>>,
    roots: Arc<OnceLock<RootCertStore>>,
    proxies: Vec<HttpProxy>,
}

impl Transport {
    pub(super) fn new(settings: &Settings, roots: &Arc<OnceLock<RootCertStore>>) -> Result<Transport, Error> {
        Ok(Transport { clients: Mutex::default(), roots: roots.clone(), proxies: proxies(&settings.proxy)? })
    }

    /// A client that was made before.
    pub(super) fn made(&self, tls: Option<&Tls>) -> Option<reqwest::Client> {
        self.clients.lock().unwrap_or_else(|e| e.into_inner()).get(&tls.cloned()).cloned()
    }

    /// A client for plain HTTP, or for a manner of TLS. May read certificates from the disk.
    pub(super) fn client(&self, tls: Option<&Tls>) -> Result<reqwest::Client, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(client) = clients.get(&tls.cloned()) {
            return Ok(client.clone());
        }
        let config = match tls {
            // reqwest wants one; without authorities it connects to nobody.
            None => builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
            Some(tls) => self.config(tls)?,
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")));
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        let client = builder.build().map_err(|e| Error::Setting { what: "the HTTP client".into(), why: e.to_string() })?;
        clients.insert(tls.cloned(), client.clone());
        Ok(client)
    }

    fn config(&self, tls: &Tls) -> Result<ClientConfig, Error> {
        let builder = builder()?;
        let builder = match tls.unverified {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(Arc::new(ring::default_provider())))),
            false => builder.with_root_certificates(self.authorities(&tls.roots)?),
        };
        let Some((certificates, key)) = &tls.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let fail = |why: String| Error::Setting { what: "the client certificate".into(), why };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(|e| fail(e.to_string()))?;
        if chain.is_empty() {
            return Err(fail("there is no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| fail(format!("its key: {e}")))?;
        builder.with_client_auth_cert(chain, key).map_err(|e| fail(e.to_string()))
    }

    /// Those of the machine, and others.
    fn authorities(&self, more: &[Vec<u8>]) -> Result<RootCertStore, Error> {
        let mut roots = self.roots.get_or_init(of_this_machine).clone();
        for pem in more {
            let fail = |why: String| Error::Setting { what: "the certificate of an authority".into(), why };
            let mut any = false;
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|e| fail(e.to_string()))?).map_err(|e| fail(e.to_string()))?;
                any = true;
            }
            if !any {
                return Err(fail("it isn't PEM".into()));
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

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Setting { what: "TLS".into(), why: e.to_string() })
}

/// What can't be read is left out, as others do: a machine's directory often has a file too many.
fn of_this_machine() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "a trusted certificate can't be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// Accepts every certificate. That whoever shows it has its key is still asked for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
