//! One request over a stream to a container: enough of HTTP/1.1 to ask a service whether it answers, and no more.
//!
//! The answer is a stranger's: its head, its body and its patience have an end.

use std::io::{self, Read, Write};

/// The most of a head, and of a body, that is read.
const MOST_HEAD: usize = 64 << 10;
const MOST_BODY: usize = 1 << 20;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What of a request can't travel.
pub(crate) fn problem(request: &Request) -> Option<String> {
    let control = |s: &str| s.bytes().any(|b| b < 0x20 || b == 0x7f);
    if !request.path.starts_with('/') || request.path.bytes().any(|b| b <= 0x20 || b >= 0x7f) {
        return Some(format!("{:?} can't be the path of a request: it begins with / and has no spaces", request.path));
    }
    let words = request.headers.iter().flat_map(|(name, value)| [name, value]).chain([&request.method, &request.host]);
    words.into_iter().find(|word| control(word)).map(|word| format!("{word:?} can't stand in a request"))
}

/// Asks, and reads the answer.
pub(crate) fn ask(mut stream: impl Read + Write, request: &Request) -> io::Result<Answer> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nUser-Agent: coracle\r\n", request.method, request.path, request.host);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    read(stream, request.method == "HEAD")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it isn't HTTP that is answered: {what}"))
}

fn read(mut stream: impl Read, no_body: bool) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if bytes.len() > MOST_HEAD {
                return Err(malformed("its head has no end"));
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece) {
                Ok(0) if bytes.is_empty() => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up without an answer")),
                Ok(0) => return Err(malformed("it broke off")),
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = match status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)) {
            Some(code) if code.len() == 3 => code.parse().map_err(|_| malformed(status))?,
            _ => return Err(malformed(&status.chars().take(100).collect::<String>())),
        };
        let headers: Vec<_> =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
        let rest = bytes.split_off(end + 4);
        if status == 101 || status >= 200 {
            let mut answer = Answer { status, headers, body: Vec::new() };
            if !no_body && !matches!(status, 101 | 204 | 304) {
                answer.body = body(io::Cursor::new(rest).chain(stream), &answer)?;
            }
            return Ok(answer);
        }
        // 100 and its like: the answer follows.
        bytes = rest;
    }
}

fn body(stream: impl Read, answer: &Answer) -> io::Result<Vec<u8>> {
    let chunked = answer.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
    let length = answer.header("content-length").and_then(|value| value.parse::<u64>().ok());
    let mut body = Vec::new();
    if chunked {
        let mut stream = io::BufReader::new(stream);
        loop {
            let line = line(&mut stream)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("a chunk without a size"))?;
            if size == 0 {
                return Ok(body);
            }
            let room = MOST_BODY - body.len();
            (&mut stream).take(size.min(room) as u64).read_to_end(&mut body)?;
            if size >= room {
                return Ok(body);
            }
            self::line(&mut stream)?;
        }
    }
    match stream.take(length.unwrap_or(u64::MAX).min(MOST_BODY as u64)).read_to_end(&mut body) {
        // Many services end a connection of TLS without the words for it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && length.is_none() => Ok(body),
        other => other.map(|_| body),
    }
}

/// A short line.
fn line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 256 {
        if stream.read(&mut byte)? == 0 {
            return Err(malformed("it broke off"));
        }
        match byte[0] {
            b'\n' => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            b => line.push(b),
        }
    }
    Err(malformed("a line without an end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, status: u16, body: &str) {
        let answer = read(text.as_bytes(), false).unwrap();
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (status, body), "{text}");
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore", 200, "ok");
        check("HTTP/1.0 503 Not Now\r\n\r\nuntil the end", 503, "until the end");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde");
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 404, "");
        check("HTTP/1.1 204 Nothing\r\n\r\nwhat", 204, "");
        let answer = read(&b"HTTP/1.1 200\r\nX-Ready: yes\r\n\r\n"[..], false).unwrap();
        assert_eq!(answer.header("x-ready"), Some("yes"));
    }

    #[test]
    fn what_isnt_http_is_an_error_and_a_flood_has_an_end() {
        for text in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2000 x\r\n\r\n"]
        {
            read(text.as_bytes(), false).unwrap_err();
        }
        assert!(read(io::repeat(b'x'), false).is_err());
        let flood = io::Cursor::new(b"HTTP/1.1 200 OK\r\n\r\n").chain(io::repeat(b'x'));
        assert_eq!(read(flood, false).unwrap().body.len(), MOST_BODY);
        let chunks = io::Cursor::new(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n").chain(io::repeat(b'x'));
        assert_eq!(read(chunks, false).unwrap().body.len(), MOST_BODY);
        let line = io::Cursor::new(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").chain(io::repeat(b'1'));
        assert!(read(line, false).is_err());
    }

    #[test]
    fn a_request_is_one() {
        let request = |path: &str, value: &str| Request {
            method: "GET".into(),
            path: path.into(),
            host: "localhost".into(),
            headers: vec![("X".into(), value.into())],
        };
        assert!(problem(&request("/health?x=1", "y")).is_none());
        for bad in [request("health", "y"), request("/a b", "y"), request("/a\r\nX: y", "y"), request("/", "y\r\nHost: other")] {
            assert!(problem(&bad).is_some(), "{bad:?}");
        }
    }
}
