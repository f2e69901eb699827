//! TLS without anything process-wide: whom to believe, as data. Registries are asked by it, and, by `coracle-container`, services in
//! containers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned, WantsVerifier,
};

/// Whom to believe on the other side of a stream.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    any: bool,
    roots: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Believes whoever answers, from now on.
    pub fn anybody(&mut self) {
        self.any = true;
    }

    /// Believes one more authority, or several, beside those of this machine: certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add_root(&mut self, pem: &[u8]) -> Result<(), String> {
        self.roots.extend(certificates(pem).map_err(|why| format!("that is no certificate in PEM: {why}"))?);
        Ok(())
    }

    /// A stream that is encrypted, to a host whose name may end in a port. The handshake comes with the first byte.
    ///
    /// # Errors
    /// Of kind `InvalidInput` where the name can't be one.
    pub fn over(&self, stream: TcpStream, host: &str) -> io::Result<impl Read + Write + Send + use<>> {
        let builder = builder().map_err(io::Error::other)?;
        let config = match self.any {
            true => of_anybody(builder),
            false => {
                let mut roots = of_this_machine();
                for root in &self.roots {
                    roots.add(root.clone()).map_err(io::Error::other)?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
        let name = ServerName::try_from(name.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connection = ClientConnection::new(Arc::new(config.with_no_client_auth()), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// The certificates in a PEM text: one at least.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if all.is_empty() { Err("there is none in it".into()) } else { Ok(all) }
}

pub(crate) fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()
}

/// Takes every certificate for the right one.
pub(crate) fn of_anybody(builder: ConfigBuilder<ClientConfig, WantsVerifier>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(ring::default_provider())))
}

/// The authorities that this machine trusts. What can't be read is left out, as others do: a machine's directory often has a file too
/// many.
pub(crate) fn of_this_machine() -> RootCertStore {
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
struct Anybody(CryptoProvider);

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
