//! What is sent with each stream: fixed metadata, and a token that is read
//! again for every stream, so that a rotated file is in use at once.

use crate::xds::Token;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::path::PathBuf;

/// Why a stream cannot be opened with what the configuration names.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("cannot read the token file {}: {source}; check the path and its permissions", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the token file {} is empty or holds what no HTTP header can; write one token into it", path.display())]
    BadToken { path: PathBuf },
    #[error("the token of a member holds what no HTTP header can")]
    Member,
    #[error("metadata {name:?} cannot be sent: name or value is not fit for a header")]
    Pair { name: String },
}

#[derive(Debug)]
pub(super) struct Metadata {
    fixed: HeaderMap,
    token: Option<PathBuf>,
}

impl Metadata {
    pub(super) fn new(pairs: &[(String, String)], token: Option<PathBuf>) -> Result<Self, MetadataError> {
        let mut fixed = HeaderMap::new();
        for (name, value) in pairs {
            let unfit = || MetadataError::Pair { name: name.clone() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| unfit())?;
            // It may be a secret; names do not tell.
            value.set_sensitive(true);
            fixed.append(key, value);
        }
        Ok(Self { fixed, token })
    }

    /// For a stream that opens now, by a token of a member where there is one.
    pub(super) fn read(&self, member: Option<&Token>) -> Result<HeaderMap, MetadataError> {
        let mut map = self.fixed.clone();
        if let Some(token) = member {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.secret()));
            let mut value = value.map_err(|_| MetadataError::Member)?;
            value.set_sensitive(true);
            map.insert(header::AUTHORIZATION, value);
        }
        if let Some(path) = &self.token {
            let text =
                std::fs::read_to_string(path).map_err(|source| MetadataError::Token { path: path.clone(), source })?;
            let token = text.trim();
            let bad = || MetadataError::BadToken { path: path.clone() };
            if token.is_empty() {
                return Err(bad());
            }
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
            value.set_sensitive(true);
            map.insert(header::AUTHORIZATION, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_token_is_in_use_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let metadata = Metadata::new(&[("clusterid".into(), "c1".into())], Some(path.clone())).unwrap();
        assert!(metadata.read(None).unwrap_err().to_string().contains("cannot read the token file"));
        for token in ["one", "two\n"] {
            std::fs::write(&path, token).unwrap();
            let map = metadata.read(None).unwrap();
            assert_eq!(map["authorization"], format!("Bearer {}", token.trim()));
            assert!(map["authorization"].is_sensitive());
            assert_eq!(map["clusterid"], "c1");
        }
        let map = Metadata::new(&[], None).unwrap().read(Some(&Token::new("member"))).unwrap();
        assert!(map["authorization"] == "Bearer member" && map["authorization"].is_sensitive());
        std::fs::write(&path, " \n").unwrap();
        assert!(metadata.read(None).unwrap_err().to_string().contains("is empty"));
    }
}
